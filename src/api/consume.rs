//! `Consume`: the stream of one consumer, with its acks on the same stream.
//!
//! Pulled by the transport like [`super::subscribe`]: requests are read and messages
//! leased only while it asks for the next event.

use std::future::ready;

use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, Stream, StreamExt, stream};
use tokio::time::sleep;
use tonic::{Status, Streaming};

use super::access::Access;
use super::settle::{Of, Settle, acked, extended, nacked};
use super::status::{Refusal, explain};
use super::subscribe::{self, Opened, goaway, heartbeat, started};
use super::validate::check;
use super::wire::v1::consume_request::Action;
use super::wire::v1::consume_response::Event;
use super::wire::v1::{
    ConsumeError, ConsumeRequest, ConsumeResponse, DeliveryBatch, SetCredit, SetCreditResponse,
};
use super::{Context, convert};
use crate::engine::{Credit, Error, Settled};
use crate::model::Delivery;

/// Requests of one stream under way at once; further ones wait their turn.
const MAX_IN_FLIGHT: usize = 64;

/// What happens on the stream.
pub(super) fn events(
    context: Context,
    access: Access,
    requests: Streaming<ConsumeRequest>,
) -> impl Stream<Item = Result<ConsumeResponse, Status>> + Send {
    let state = State { context, access, requests, phase: Phase::Opening };
    stream::unfold(state, async |mut state| Some((state.next().await?, state)))
}

struct State {
    context: Context,
    access: Access,
    requests: Streaming<ConsumeRequest>,
    phase: Phase,
}

enum Phase {
    /// The first request is yet to come.
    Opening,
    Live(Live),
    /// No more is delivered; what was asked is still answered, then the stream ends like this.
    Draining(Answers, Ending),
    /// A Goaway was sent; the status follows.
    Leaving(Refusal),
    Ended,
}

/// How a stream ends.
enum Ending {
    /// The client is done.
    Done,
    /// The client's side broke.
    Broken(Status),
    /// The engine ended it.
    Engine(Error),
}

type Answers = FuturesOrdered<BoxFuture<'static, ConsumeResponse>>;

struct Live {
    opened: Opened,
    stored: convert::Stored,
    /// The answers to requests, in their order.
    answers: Answers,
}

/// What a live stream has to deal with next.
enum Input {
    Answer(ConsumeResponse),
    Request(ConsumeRequest),
    Deliveries(Vec<Delivery>),
    Silence,
    End(Ending),
}

impl State {
    /// The next event, the error that ends the stream, or its end.
    async fn next(&mut self) -> Option<Result<ConsumeResponse, Status>> {
        loop {
            // A phase that goes on puts itself back.
            match std::mem::replace(&mut self.phase, Phase::Ended) {
                Phase::Opening => return Some(self.open().await),
                Phase::Live(live) => {
                    if let Some(event) = self.live(live).await {
                        return Some(Ok(event));
                    }
                }
                Phase::Draining(mut answers, ending) => match answers.next().await {
                    Some(answer) => {
                        self.phase = Phase::Draining(answers, ending);
                        return Some(Ok(answer));
                    }
                    None => return self.end(ending),
                },
                Phase::Leaving(refusal) => return Some(Err(refusal.into())),
                Phase::Ended => return None,
            }
        }
    }

    /// Opens the stream with its first request.
    async fn open(&mut self) -> Result<ConsumeResponse, Status> {
        let first = tokio::select! {
            biased;
            () = self.context.stop.cancelled() => return Err(Refusal::shutting_down().into()),
            first = self.requests.message() => first.map_err(|status| explain(&status))?,
        };
        let Some(ConsumeRequest { request_id, action: Some(Action::Subscribe(subscribe)) }) = first else {
            let description = "is required as the first request of the stream; send it before anything else";
            return Err(Refusal::field("subscribe", "REQUIRED", description).into());
        };
        self.access.check_and_hold(&subscribe)?;
        let opened = subscribe::open(&self.context, subscribe).await?;
        let event = Event::Started(started(&opened));
        let answers = Answers::new();
        self.phase = Phase::Live(Live { opened, stored: convert::Stored::default(), answers });
        Ok(response(request_id, event))
    }

    /// Deals with inputs until there is something to say; `None` if the phase has changed instead.
    async fn live(&mut self, mut live: Live) -> Option<ConsumeResponse> {
        let silence = sleep(self.context.heartbeat);
        tokio::pin!(silence);
        let event = loop {
            let room = live.answers.len() < MAX_IN_FLIGHT;
            let input = tokio::select! {
                biased;
                () = self.context.stop.cancelled() => Input::End(Ending::Engine(Error::Closed)),
                Some(answer) = live.answers.next() => Input::Answer(answer),
                request = self.requests.message(), if room => match request {
                    Ok(Some(request)) => Input::Request(request),
                    Ok(None) => Input::End(Ending::Done),
                    Err(status) => Input::End(Ending::Broken(status)),
                },
                deliveries = live.opened.consumer.next() => match deliveries {
                    Ok(deliveries) => Input::Deliveries(deliveries),
                    Err(error) => Input::End(Ending::Engine(error)),
                },
                () = &mut silence => Input::Silence,
            };
            match input {
                Input::Answer(answer) => break answer,
                Input::Request(request) => live.take(&self.context, request).await,
                Input::Deliveries(deliveries) => {
                    let deliveries = live.stored.deliveries(deliveries);
                    break response(0, Event::Batch(DeliveryBatch { deliveries }));
                }
                Input::Silence => break response(0, Event::Heartbeat(heartbeat())),
                Input::End(ending) => {
                    self.phase = Phase::Draining(live.answers, ending);
                    return None;
                }
            }
        };
        self.phase = Phase::Live(live);
        Some(event)
    }

    /// The last words of the stream.
    fn end(&mut self, ending: Ending) -> Option<Result<ConsumeResponse, Status>> {
        match ending {
            Ending::Done => None,
            Ending::Broken(status) => Some(Err(explain(&status))),
            Ending::Engine(error) => match goaway(&error) {
                Some(goaway) => {
                    self.phase = Phase::Leaving(error.into());
                    Some(Ok(response(0, Event::Goaway(goaway))))
                }
                None => Some(Err(error.into())),
            },
        }
    }
}

impl Live {
    /// Takes up a request; its answer comes in its turn.
    async fn take(&mut self, context: &Context, ConsumeRequest { request_id, action }: ConsumeRequest) {
        let answer = match action {
            Some(Action::SetCredit(new)) => ready(self.set_credit(new).await).boxed(),
            Some(Action::Ack(ack)) => {
                self.settle(context, |of| Settle::ack(ack, of), |settled| Event::Ack(acked(settled)))
            }
            Some(Action::Nack(nack)) => {
                self.settle(context, |of| Settle::nack(nack, of), |settled| Event::Nack(nacked(settled)))
            }
            Some(Action::Extend(extend)) => self.settle(
                context,
                |of| Settle::extend(extend, of),
                |settled| Event::Extend(extended(settled)),
            ),
            Some(Action::Subscribe(_)) => {
                refuse("subscribe", "ALREADY_OPEN", "came twice; open another stream")
            }
            None => refuse("action", "REQUIRED", "is required; set one of ack, nack, extend and set_credit"),
        };
        self.answers.push_back(
            async move {
                let event = answer.await.unwrap_or_else(|refusal| {
                    Event::Error(ConsumeError {
                        code: refusal.code(),
                        message: refusal.message(),
                        reason: refusal.reason().into(),
                    })
                });
                response(request_id, event)
            }
            .boxed(),
        );
    }

    fn settle(
        &self,
        context: &Context,
        read: impl FnOnce(Of<'_>) -> Result<Settle, Refusal>,
        event: impl FnOnce(Settled) -> Event + Send + 'static,
    ) -> BoxFuture<'static, Result<Event, Refusal>> {
        let Some(subscription) = &self.opened.subscription else {
            let description = "is not for this stream: an ephemeral subscription needs no acks";
            return refuse("action", "EPHEMERAL_SUBSCRIPTION", description);
        };
        let settle = match read(Of::Stream(subscription)) {
            Ok(settle) => settle,
            Err(refusal) => return ready(Err(refusal)).boxed(),
        };
        let engine = context.engine.clone();
        async move { settle.run(&*engine).await.map(event) }.boxed()
    }

    async fn set_credit(&mut self, new: SetCredit) -> Result<Event, Refusal> {
        let (messages, bytes) = (new.max_outstanding_messages, new.max_outstanding_bytes);
        // No messages means none here: the client pauses.
        let defaults = Credit { messages: 0, bytes: self.opened.credit.bytes };
        let credit = check(|violations| subscribe::credit(violations, messages, bytes, defaults))?;
        self.opened.consumer.set_credit(credit).await;
        self.opened.credit = credit;
        Ok(Event::SetCredit(SetCreditResponse {}))
    }
}

fn refuse(
    field: &str,
    reason: &'static str,
    description: &str,
) -> BoxFuture<'static, Result<Event, Refusal>> {
    ready(Err(Refusal::field(field, reason, description))).boxed()
}

fn response(request_id: u64, event: Event) -> ConsumeResponse {
    ConsumeResponse { request_id, event: Some(event) }
}
