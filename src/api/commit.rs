//! `Commit`: publishes and acks in one step.

use super::publisher;
use super::status::Refusal;
use super::validate::{Violations, check};
use super::wire::v1::operation::Operation as Wire;
use super::wire::v1::operation_result::Result as WireResult;
use super::wire::v1::{CommitAck, CommitAckResult, CommitRequest, CommitResponse, OperationResult};
use super::{Context, convert};
use crate::engine::{Error, Operation, Outcome};
use crate::model::limits::{MAX_ACK_IDS, MAX_COMMIT_OPERATIONS, MAX_PUBLISH_BYTES, MAX_PUBLISH_MESSAGES};

/// Does all of a request or nothing.
pub(super) async fn commit(context: &Context, request: CommitRequest) -> Result<CommitResponse, Refusal> {
    let capabilities = context.engine.capabilities();
    if !capabilities.commit {
        return Err(Error::Unsupported { engine: capabilities.engine, what: "commit" }.into());
    }
    let operations = check(|violations| read(violations, request))?;
    let outcomes = context.engine.commit(operations).await?;
    Ok(CommitResponse { results: outcomes.into_iter().map(result).collect() })
}

fn read(violations: &mut Violations, request: CommitRequest) -> Option<Vec<Operation>> {
    let count = request.operations.len();
    if count == 0 {
        return violations.refuse("operations", "REQUIRED", "is empty; send 1 to 100 operations");
    }
    if count > MAX_COMMIT_OPERATIONS {
        let description = format!("has {count} entries; send at most {MAX_COMMIT_OPERATIONS} at once");
        return violations.refuse("operations", "TOO_MANY_OPERATIONS", description);
    }
    let operations = request.operations.into_iter().enumerate().map(|(index, operation)| {
        let prefix = format!("operations[{index}].");
        violations.within(&prefix, |violations| match operation.operation {
            Some(Wire::Publish(publish)) => violations.within("publish.", |violations| {
                let (topic, messages, terms) = publisher::read(violations, publish)?;
                Some(Operation::Publish { topic, messages, terms })
            }),
            Some(Wire::Ack(ack)) => violations.within("ack.", |violations| read_ack(violations, ack)),
            None => violations.refuse("operation", "REQUIRED", "is required; set `publish` or `ack`"),
        })
    });
    // All of them are looked at, so that everything bad is found.
    let operations: Vec<_> = operations.collect();
    let operations = operations.into_iter().collect::<Option<Vec<_>>>()?;
    check_totals(violations, &operations);
    Some(operations)
}

fn read_ack(violations: &mut Violations, ack: CommitAck) -> Option<Operation> {
    let subscription = violations.name("subscription", &ack.subscription);
    let ids = violations.ack_ids(ack.ack_ids);
    Some(Operation::Ack { subscription: subscription?, ids: ids? })
}

/// What one publish or ack may have, all together may have.
fn check_totals(violations: &mut Violations, operations: &[Operation]) {
    let (mut messages, mut bytes, mut ids) = (0, 0, 0);
    for operation in operations {
        match operation {
            Operation::Publish { messages: added, .. } => {
                messages += added.len();
                bytes += added.iter().map(crate::model::Envelope::len).sum::<usize>();
            }
            Operation::Ack { ids: added, .. } => ids += added.len(),
        }
    }
    for (total, limit, what, reason) in [
        (messages, MAX_PUBLISH_MESSAGES, "messages", "TOO_MANY_MESSAGES"),
        (bytes, MAX_PUBLISH_BYTES, "bytes of messages", "TOO_MANY_BYTES"),
        (ids, MAX_ACK_IDS, "ack ids", "TOO_MANY_ACK_IDS"),
    ] {
        if total > limit {
            let description = format!("has {total} {what} in all; send at most {limit} at once");
            violations.add("operations", reason, description);
        }
    }
}

fn result(outcome: Outcome) -> OperationResult {
    let result = match outcome {
        Outcome::Published(receipt) => WireResult::Publish(convert::receipt(receipt)),
        Outcome::Acked(committed_offset) => WireResult::Ack(CommitAckResult { committed_offset }),
    };
    OperationResult { result: Some(result) }
}
