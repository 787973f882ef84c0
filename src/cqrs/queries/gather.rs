//! Asking every group of handlers, and gathering what they answer.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::oneshot;

use super::Queries;
use super::ask::{Terms, Waiting};
use super::error::Error;
use super::flights::Want;
use super::question::{Answer, Failure, Parts, Question};
use super::routing::Lane;
use crate::model::limits::{MAX_GATHERED_ANSWERS, MAX_GATHERED_BYTES};

/// What one group answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GatheredAnswer {
    /// What the handlers of the group call themselves.
    pub(crate) handler: Arc<str>,
    /// The result, or why there is none.
    pub(crate) result: Result<Answer, Failure>,
}

/// What was gathered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gathered {
    /// In the order in which they came.
    pub(crate) answers: Vec<GatheredAnswer>,
    /// How many groups were asked.
    pub(crate) asked: usize,
    /// How many of them had not answered when the gathering ended.
    pub(crate) unanswered: usize,
}

impl Queries {
    /// Asks one handler of each name, and each handler without a name, until so many have answered with a
    /// result, all have, or the time is over.
    pub(crate) async fn gather(
        &self,
        parts: Parts,
        terms: &Terms,
        max_answers: usize,
    ) -> Result<Gathered, Error> {
        let question = self.question(parts);
        self.shared.with(|state, _| state.counters.asked += 1);
        let gathered = self.gather_from(&question, terms, max_answers).await;
        self.shared.with(|state, _| match &gathered {
            Ok(_) => state.counters.answered += 1,
            Err(_) => state.counters.failed += 1,
        });
        gathered
    }

    async fn gather_from(
        &self,
        question: &Question,
        terms: &Terms,
        max_answers: usize,
    ) -> Result<Gathered, Error> {
        let waiting = self.ask_groups(question, terms)?;
        let asked = waiting.len();
        let each = waiting.into_iter().map(async |(handler, waiting): (Arc<str>, Waiting)| {
            (handler, waiting.answer(question, terms).await)
        });
        let mut coming: FuturesUnordered<_> = each.collect();
        let (mut answers, mut results, mut bytes, mut silent) = (Vec::new(), 0, 0, None);
        while results < max_answers
            && let Some((handler, result)) = coming.next().await
        {
            let result = match result {
                Ok(answer) if bytes + answer.payload.len() > MAX_GATHERED_BYTES => {
                    Err(too_large(&handler, answer.payload.len()))
                }
                Ok(answer) => {
                    bytes += answer.payload.len();
                    results += 1;
                    Ok(answer)
                }
                Err(Error::Failed(failure)) => Err(Arc::unwrap_or_clone(failure)),
                Err(error @ (Error::TimedOut { .. } | Error::RevisionNotReached { .. })) => {
                    silent.get_or_insert(error);
                    continue;
                }
                Err(error) => Err(lost(&handler, &error)),
            };
            answers.push(GatheredAnswer { handler, result });
        }
        match silent {
            Some(error) if answers.is_empty() => Err(error),
            _ => Ok(Gathered { unanswered: asked - answers.len(), answers, asked }),
        }
    }

    /// Asks each group; a group that cannot be asked is reported by the first who waits for it.
    fn ask_groups(&self, question: &Question, terms: &Terms) -> Result<Vec<(Arc<str>, Waiting)>, Error> {
        self.shared
            .with(|state, now| {
                let kind = question.kind();
                let groups = state.router.groups(kind, MAX_GATHERED_ANSWERS);
                if groups.is_empty() {
                    return Err(Error::NoHandler(kind.clone()));
                }
                let deadline = now + terms.timeout;
                let want = Want { min_revision: terms.min_revision, deadline, keep: false };
                let mut waiting = Vec::with_capacity(groups.len());
                for (group, handler) in groups {
                    let (reply, receiver) = oneshot::channel();
                    let lane = Lane { kind: kind.clone(), group: Some(group) };
                    // If there is no room for one more, the others are given up where this returns.
                    waiting.push((handler, state.ask_group(question, lane, want, reply, now), receiver));
                }
                Ok((waiting, deadline))
            })
            .and_then(|(asked, deadline)| {
                let shared = || Arc::clone(&self.shared);
                let mut refused = None;
                let mut waiting = Vec::with_capacity(asked.len());
                for (handler, ticket, receiver) in asked {
                    match ticket {
                        Ok(ticket) => {
                            waiting.push((handler, Waiting { shared: shared(), ticket, receiver, deadline }));
                        }
                        Err(error) => _ = refused.get_or_insert(error),
                    }
                }
                refused.map_or(Ok(waiting), Err)
            })
    }
}

fn too_large(handler: &Arc<str>, bytes: usize) -> Failure {
    let message = format!(
        "the answer of {bytes} bytes does not fit into the {MAX_GATHERED_BYTES} that a gathering query returns; \
         ask for fewer answers, or smaller ones"
    );
    Failure { code: "ANSWER_TOO_LARGE".into(), message, retryable: false, handler: Arc::clone(handler) }
}

fn lost(handler: &Arc<str>, error: &Error) -> Failure {
    let (code, message) = (error.reason().into(), error.to_string());
    Failure { code, message, retryable: true, handler: Arc::clone(handler) }
}
