//! `HandleQueries`: the stream of one handler.

use std::time::Instant;

use super::super::convert;
use super::super::status::Refusal;
use super::super::wire::v1::handle_queries_response::Event;
use super::super::wire::v1::{Goaway, HandleQueriesResponse, Heartbeat, QueryDelivery, QueryHandlerStarted};
use super::feed::Source;
use crate::cqrs::queries::{Delivery, Handler};
use crate::model::Timestamp;

/// A connected handler. Dropping it hands what it has to others.
pub(super) struct Handling {
    handler: Handler,
    started: bool,
}

impl Handling {
    pub(super) fn new(handler: Handler) -> Self {
        Self { handler, started: false }
    }
}

impl Source for Handling {
    type Event = HandleQueriesResponse;

    async fn next(&mut self) -> Result<Self::Event, Refusal> {
        if !self.started {
            self.started = true;
            let server_time = Some(convert::timestamp(Timestamp::now()));
            let started = QueryHandlerStarted { handler_id: self.handler.id(), server_time };
            return Ok(response(Event::Started(started)));
        }
        Ok(response(Event::Delivery(delivery(self.handler.next().await))))
    }

    fn heartbeat(heartbeat: Heartbeat) -> Self::Event {
        response(Event::Heartbeat(heartbeat))
    }

    fn goaway(goaway: Goaway) -> Self::Event {
        response(Event::Goaway(goaway))
    }
}

fn response(event: Event) -> HandleQueriesResponse {
    HandleQueriesResponse { event: Some(event) }
}

fn delivery(delivery: Delivery) -> QueryDelivery {
    let parts = delivery.question.parts();
    let left = delivery.deadline.saturating_duration_since(Instant::now());
    QueryDelivery {
        query_id: delivery.id,
        r#type: parts.kind.to_string(),
        key: parts.key.clone(),
        payload: parts.payload.clone(),
        content_type: parts.content_type.clone(),
        attributes: parts.attributes.clone().into_iter().collect(),
        deadline: Some(convert::timestamp(Timestamp::now().after(left))),
        time_left: Some(convert::duration(left)),
    }
}
