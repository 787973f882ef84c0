//! Sends a command for each departure, and waits for its outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use columba::proto::v1::command_service_client::CommandServiceClient;
use columba::proto::v1::{Command, CommandState, SendCommandRequest};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::rows::Departure;
use crate::{Error, NEVER_LEFT, RECORD};

/// Commands sent at once.
const AT_ONCE: usize = 32;

/// How the commands ended.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Outcomes {
    pub(crate) succeeded: usize,
    pub(crate) never_left: usize,
    pub(crate) otherwise: usize,
    /// Those that took more than one attempt.
    pub(crate) retried: usize,
}

impl Outcomes {
    pub(crate) fn ended(&self) -> usize {
        self.succeeded + self.never_left + self.otherwise
    }
}

/// Sends all; `progress` has how they ended so far.
pub(crate) async fn send_all(
    channel: Channel,
    departures: Arc<Vec<Departure>>,
    progress: watch::Sender<Outcomes>,
) -> Result<(), Error> {
    let (next, progress) = (Arc::new(AtomicUsize::new(0)), Arc::new(progress));
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let (channel, departures) = (channel.clone(), departures.clone());
        let (next, progress) = (next.clone(), progress.clone());
        senders.spawn(async move {
            while let Some(departure) = departures.get(next.fetch_add(1, Ordering::Relaxed)) {
                send(&channel, departure, &progress).await?;
            }
            Ok::<(), Error>(())
        });
    }
    while let Some(sender) = senders.join_next().await {
        sender??;
    }
    Ok(())
}

/// Sends one until its outcome is known. The same id again is the same command, however often it is sent.
async fn send(
    channel: &Channel,
    departure: &Departure,
    progress: &watch::Sender<Outcomes>,
) -> Result<(), Error> {
    let command = Command {
        id: departure.id(),
        r#type: RECORD.into(),
        key: departure.carrier.clone(),
        payload: departure.delay.clone().into(),
        content_type: "text/plain".into(),
        ..Command::default()
    };
    let execution = loop {
        let wait = Some(prost_types::Duration { seconds: 10, nanos: 0 });
        let request = SendCommandRequest { command: Some(command.clone()), wait };
        let sent = CommandServiceClient::new(channel.clone()).send_command(request).await?.into_inner();
        let execution = sent.execution.ok_or("no execution")?;
        if execution.end_time.is_some() {
            break execution;
        }
    };
    progress.send_modify(|outcomes| {
        let failed_as_it_should = execution.failure.as_ref().is_some_and(|it| it.code == NEVER_LEFT);
        match execution.state() {
            CommandState::Succeeded => outcomes.succeeded += 1,
            CommandState::Failed if failed_as_it_should => outcomes.never_left += 1,
            _ => outcomes.otherwise += 1,
        }
        outcomes.retried += usize::from(execution.attempts > 1);
    });
    Ok(())
}
