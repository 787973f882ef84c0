//! Sends batches in a pipeline, over as many connections as it takes.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::super::backoff::Backoff;
use super::super::context::Context;
use super::super::error::Error;
use super::input::Batch;
use super::progress::ProgressBar;
use super::window::Window;
use crate::proto::v1::publisher_service_client::PublisherServiceClient;
use crate::proto::v1::{PublishError, PublishStreamRequest, PublishStreamResponse};

/// One input on its way to a topic.
pub(super) struct Session<'a> {
    pub(super) context: &'a Context,
    pub(super) window: Window,
    pub(super) batches: mpsc::Receiver<Result<Batch, Error>>,
    /// Requests under way at once.
    pub(super) in_flight: usize,
    /// Whether to go on when the server goes away.
    pub(super) retry: bool,
    pub(super) bar: ProgressBar,
    /// Why nothing more is taken from the input.
    input: InputState,
    backoff: Backoff,
}

enum InputState {
    Open,
    Ended,
    Failed(Error),
}

/// One connection.
struct Pipe {
    requests: mpsc::Sender<PublishStreamRequest>,
    answers: Streaming<PublishStreamResponse>,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        context: &'a Context,
        window: Window,
        batches: mpsc::Receiver<Result<Batch, Error>>,
        in_flight: usize,
        retry: bool,
        bar: ProgressBar,
    ) -> Self {
        let (input, backoff) = (InputState::Open, Backoff::default());
        Self { context, window, batches, in_flight, retry, bar, input, backoff }
    }

    /// Publishes to the end of the input. After an error, the window says how far it came.
    pub(super) async fn run(&mut self) -> Result<(), Error> {
        // The first connection must succeed: a wrong address is no outage.
        let mut pipe = self.connect().await;
        while let Err(error) = match pipe {
            Ok(pipe) => self.drive(pipe).await,
            Err(error) => Err(error),
        } {
            let wait = self.wait_before_retry(error)?;
            tokio::time::sleep(wait).await;
            pipe = self.connect().await;
        }
        match std::mem::replace(&mut self.input, InputState::Ended) {
            InputState::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// How long to wait, or the error if it is final.
    fn wait_before_retry(&mut self, error: Error) -> Result<Duration, Error> {
        let began = self.window.len() > 0 || self.window.acknowledged().messages > 0;
        if !self.retry || !began || !is_passing(&error) {
            return Err(error);
        }
        let Some(wait) = self.backoff.next() else { return Err(error) };
        self.bar.note(&format!("{error}; trying again"));
        Ok(wait)
    }

    async fn connect(&self) -> Result<Pipe, Error> {
        let mut client = PublisherServiceClient::new(self.context.connect().await?);
        // As many as may be under way, so that sending never waits.
        let (requests, stream) = mpsc::channel(self.in_flight);
        let opening = client.publish_stream(ReceiverStream::new(stream));
        match tokio::time::timeout(self.context.timeout, opening).await {
            Ok(opened) => Ok(Pipe { requests, answers: opened?.into_inner() }),
            Err(_) => Err(Error::Lost("the server did not open the stream in time".into())),
        }
    }

    /// Publishes over one connection until the input ends or something fails.
    async fn drive(&mut self, mut pipe: Pipe) -> Result<(), Error> {
        let mut refusal = None;
        for request in self.window.resend() {
            pipe.send(request).await;
        }
        let mut due = self.due();
        loop {
            let done = refusal.is_some() || !matches!(self.input, InputState::Open);
            let waiting = self.window.is_waiting();
            if done && !waiting {
                return refusal.map_or(Ok(()), Err);
            }
            tokio::select! {
                answer = pipe.answers.message() => {
                    refusal = refusal.or(self.answered(answer?)?);
                    due = self.due();
                }
                batch = self.batches.recv(), if !done && self.window.len() < self.in_flight => {
                    if let Some(batch) = self.take(batch) {
                        if !waiting {
                            due = self.due();
                        }
                        pipe.send(self.window.push(batch)).await;
                    }
                }
                () = tokio::time::sleep_until(due), if waiting => {
                    let timeout = humantime::format_duration(self.context.timeout);
                    return Err(Error::Lost(format!("no answer within {timeout}; allow more with --timeout")));
                }
            }
        }
    }

    /// When the next answer must have come.
    fn due(&self) -> Instant {
        Instant::now() + self.context.timeout
    }

    /// Takes what the input gave; notes when it is over.
    fn take(&mut self, batch: Option<Result<Batch, Error>>) -> Option<Batch> {
        match batch {
            Some(Ok(batch)) => return Some(batch),
            Some(Err(error)) => self.input = InputState::Failed(error),
            None => self.input = InputState::Ended,
        }
        None
    }

    /// Takes an answer in. A refused batch stops the input, and the others are awaited still.
    fn answered(&mut self, answer: Option<PublishStreamResponse>) -> Result<Option<Error>, Error> {
        let Some(answer) = answer else {
            return Err(Error::Lost("the server ended the stream".into()));
        };
        let refused = self.window.answer(answer)?;
        if refused.is_none() {
            self.backoff.reset();
        }
        self.bar.show(self.window.acknowledged());
        Ok(refused.map(|PublishError { code, message, reason, .. }| Error::Refused {
            code: Code::from(code),
            reason,
            message,
        }))
    }
}

impl Pipe {
    /// Hands a request over. Where the connection has failed, the answers say so, and say why.
    async fn send(&self, request: PublishStreamRequest) {
        let _ = self.requests.send(request).await;
    }
}

/// Whether trying again later may help.
fn is_passing(error: &Error) -> bool {
    error.is_passing() || matches!(error, Error::Refused { code: Code::ResourceExhausted, .. })
}
