//! `QueryService`.

mod feed;
mod handle;
mod read;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, Empty};
use tonic::{Request, Response, Status, async_trait};

use super::status::Refusal;
use super::validate::check;
use super::wire::v1::{self, gathered_answer, query_service_server::QueryService};
use super::{Context, body, convert};
use crate::cqrs::queries::{Answer, Answered, Error, Failure, Gathered, GatheredAnswer};

pub(super) struct Queries(pub(super) Context);

#[async_trait]
impl QueryService for Queries {
    async fn query(&self, request: Request<v1::QueryRequest>) -> Result<Response<v1::QueryResponse>, Status> {
        let asked = check(|violations| read::query(violations, request.into_inner()))?;
        let queries = &self.0.cqrs.queries;
        let answer = async {
            match asked.gather {
                Some(max) => queries.gather(asked.parts, &asked.terms, max).await.map(gathered),
                None => queries.ask(asked.parts, &asked.terms).await.map(answered),
            }
        };
        let answer = self.until_stop(answer).await?;
        Ok(Response::new(answer))
    }

    type WatchQueryStream = Empty<Result<v1::WatchQueryResponse, Status>>;

    async fn watch_query(
        &self,
        request: Request<v1::WatchQueryRequest>,
    ) -> Result<Response<Self::WatchQueryStream>, Status> {
        let (parts, timeout, min_revision) =
            check(|violations| read::watch(violations, request.into_inner()))?;
        self.check_running()?;
        let watcher = self.0.cqrs.queries.watch(parts, timeout, min_revision).map_err(Refusal::from)?;
        Ok(body::streamed(feed::events(self.0.clone(), watch::Watching(watcher))))
    }

    type HandleQueriesStream = BoxStream<'static, Result<v1::HandleQueriesResponse, Status>>;

    async fn handle_queries(
        &self,
        request: Request<v1::HandleQueriesRequest>,
    ) -> Result<Response<Self::HandleQueriesStream>, Status> {
        let request = request.into_inner();
        let (types, max_outstanding) = check(|violations| read::handle(violations, &request))?;
        self.check_running()?;
        let handler =
            self.0.cqrs.queries.handle(&request.handler, types, max_outstanding).map_err(Refusal::from)?;
        tracing::debug!(handler = handler.id(), name = request.handler, "query handler connected");
        Ok(Response::new(Box::pin(feed::events(self.0.clone(), handle::Handling::new(handler)))))
    }

    async fn answer_query(
        &self,
        request: Request<v1::AnswerQueryRequest>,
    ) -> Result<Response<v1::AnswerQueryResponse>, Status> {
        let (id, outcome) = check(|violations| read::answer(violations, request.into_inner()))?;
        self.0.cqrs.queries.answer(&id, outcome).map_err(Refusal::from)?;
        Ok(Response::new(v1::AnswerQueryResponse {}))
    }

    async fn publish_query_update(
        &self,
        request: Request<v1::PublishQueryUpdateRequest>,
    ) -> Result<Response<v1::PublishQueryUpdateResponse>, Status> {
        let (parts, answer) = check(|violations| read::update(violations, request.into_inner()))?;
        let (watchers, applied) = self.0.cqrs.queries.update(parts, answer);
        Ok(Response::new(v1::PublishQueryUpdateResponse { applied, watchers: number(watchers) }))
    }

    async fn invalidate_queries(
        &self,
        request: Request<v1::InvalidateQueriesRequest>,
    ) -> Result<Response<v1::InvalidateQueriesResponse>, Status> {
        let request = request.into_inner();
        let min_revision = request.min_revision;
        let scope = check(|violations| read::scope(violations, request))?;
        let watchers = self.0.cqrs.queries.invalidate(&scope, min_revision);
        Ok(Response::new(v1::InvalidateQueriesResponse { watchers: number(watchers) }))
    }
}

impl Queries {
    fn check_running(&self) -> Result<(), Refusal> {
        if self.0.stop.is_cancelled() { Err(Refusal::shutting_down()) } else { Ok(()) }
    }

    /// Handlers go when the server stops, so nothing that waits for one comes to an end by itself.
    async fn until_stop<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Refusal> {
        tokio::select! {
            biased;
            done = work => done.map_err(Refusal::from),
            () = self.0.stop.cancelled() => Err(Refusal::shutting_down()),
        }
    }
}

fn answered(Answered { answer, from_cache, age }: Answered) -> v1::QueryResponse {
    v1::QueryResponse {
        payload: answer.payload,
        content_type: answer.content_type.to_string(),
        from_cache,
        age: Some(convert::duration(age)),
        revision: answer.revision,
        handler: answer.handler.to_string(),
        ..Default::default()
    }
}

fn gathered(Gathered { answers, asked, unanswered }: Gathered) -> v1::QueryResponse {
    v1::QueryResponse {
        age: Some(convert::duration(Duration::ZERO)),
        answers: answers.into_iter().map(gathered_answer).collect(),
        asked: number(asked),
        unanswered: number(unanswered),
        ..Default::default()
    }
}

fn gathered_answer(GatheredAnswer { handler, result }: GatheredAnswer) -> v1::GatheredAnswer {
    let outcome = match result {
        Ok(Answer { payload, content_type, revision, .. }) => {
            let content_type = content_type.to_string();
            gathered_answer::Outcome::Result(v1::QueryResult { payload, content_type, revision })
        }
        Err(Failure { code, message, retryable, .. }) => {
            gathered_answer::Outcome::Failure(v1::QueryFailure { code, message, retryable })
        }
    };
    v1::GatheredAnswer { handler: handler.to_string(), outcome: Some(outcome) }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// A name without a buffer of its own.
fn shared(text: &str) -> Arc<str> {
    text.into()
}
