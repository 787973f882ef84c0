//! `DeadLetterService`.
//!
//! Which letters of a topic are dealt with is what a subscription of the server's own has settled there.

mod purge;
mod redrive;
mod selection;

use tonic::{Request, Response, Status, async_trait};

use self::purge::Purge;
use self::redrive::Redrive;
use self::selection::{Fields, Letter, Selection};
use super::validate::{Violations, check};
use super::wire::v1::{self, dead_letter_service_server::DeadLetterService};
use super::{Context, convert, page};
use crate::model::limits::{
    DEFAULT_READ_BYTES, DEFAULT_REDRIVE_MESSAGES, MAX_REDRIVE_MESSAGES, MAX_REDRIVE_RATE,
};
use crate::model::redrive::original;

/// The fields of a request that select letters.
macro_rules! fields {
    ($request:ident) => {
        Fields {
            subscription: &$request.subscription,
            topic: &$request.topic,
            reason: &$request.reason,
            since: $request.since,
            until: $request.until,
            filter: &$request.filter,
            first_offset: $request.first_offset,
            last_offset: $request.last_offset,
        }
    };
}

pub(super) struct DeadLetters(pub(super) Context);

#[async_trait]
impl DeadLetterService for DeadLetters {
    async fn list_dead_letters(
        &self,
        request: Request<v1::ListDeadLettersRequest>,
    ) -> Result<Response<v1::ListDeadLettersResponse>, Status> {
        let request = request.into_inner();
        let (selection, page) = check(|violations| {
            let selection = Selection::read(violations, fields!(request));
            let query = fields!(request).fingerprint();
            let page = page::read_numbered(violations, request.page_size, &request.page_token, &query);
            Some((selection?, page?))
        })?;
        let mut letters = selection.open(&self.0.engine).await?;
        letters.go_to(page.next);
        let (mut dead_letters, mut bytes) = (Vec::new(), 0);
        let mut next_page_token = String::new();
        while let Some(letter) = letters.next().await? {
            bytes += letter.message.envelope.len();
            if dead_letters.len() == page.size || (bytes > DEFAULT_READ_BYTES && !dead_letters.is_empty()) {
                next_page_token = page.token(letter.message.offset);
                break;
            }
            dead_letters.push(shown(letter));
        }
        if next_page_token.is_empty()
            && let Some(next) = letters.unseen()
        {
            next_page_token = page.token(next);
        }
        Ok(Response::new(v1::ListDeadLettersResponse { dead_letters, next_page_token }))
    }

    async fn redrive_dead_letters(
        &self,
        request: Request<v1::RedriveDeadLettersRequest>,
    ) -> Result<Response<v1::RedriveDeadLettersResponse>, Status> {
        let request = request.into_inner();
        let (selection, target, max, rate) = check(|violations| {
            let selection = Selection::read(violations, fields!(request));
            let target = violations.optional_name("target_topic", &request.target_topic);
            if !request.target_topic.is_empty() && request.target_topic == request.topic {
                violations.add("target_topic", "DEAD_LETTER_LOOP", LOOP);
            }
            let max = max_messages(violations, request.max_messages);
            let rate = violations.count("max_per_second", request.max_per_second, 0, MAX_REDRIVE_RATE);
            Some((selection?, target, max?, rate?))
        })?;
        let letters = selection.open(&self.0.engine).await?;
        let redrive = Redrive::new(letters, target, &self.0).await?;
        Ok(Response::new(redrive.run(max, rate, request.dry_run).await?))
    }

    async fn purge_dead_letters(
        &self,
        request: Request<v1::PurgeDeadLettersRequest>,
    ) -> Result<Response<v1::PurgeDeadLettersResponse>, Status> {
        let request = request.into_inner();
        let (selection, max) = check(|violations| {
            let selection = Selection::read(violations, fields!(request));
            let max = max_messages(violations, request.max_messages);
            Some((selection?, max?))
        })?;
        let letters = selection.open(&self.0.engine).await?;
        Ok(Response::new(Purge { letters, max, dry_run: request.dry_run }.run().await?))
    }
}

const LOOP: &str = "is the dead-letter topic itself; give another, or leave it empty";

fn max_messages(violations: &mut Violations, asked: u32) -> Option<usize> {
    let asked = usize::try_from(asked).unwrap_or(usize::MAX);
    violations.count("max_messages", asked, DEFAULT_REDRIVE_MESSAGES, MAX_REDRIVE_MESSAGES)
}

fn shown(Letter { about, message }: Letter) -> v1::DeadLetter {
    v1::DeadLetter {
        topic: message.topic.to_string(),
        offset: message.offset,
        subscription: about.subscription.to_string(),
        original_topic: about.topic.to_string(),
        original_offset: about.offset,
        attempts: about.attempts,
        reason: about.reason,
        time: Some(convert::timestamp(about.time)),
        message: Some(original(&message.envelope).0),
    }
}
