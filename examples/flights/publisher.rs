//! Publishes the rows in a pipeline, each exactly once, whatever happens to the server.
//!
//! Nobody else writes to the topic, so row n has offset n. When the server dies, the rows under way may
//! be stored or not; before sending any of them again, the publisher reads back what is there.

use std::collections::VecDeque;

use columba::proto::v1::publish_stream_response::Result as Outcome;
use columba::proto::v1::publisher_service_client::PublisherServiceClient;
use columba::proto::v1::start_position::Position;
use columba::proto::v1::subscriber_service_client::SubscriberServiceClient;
use columba::proto::v1::{
    Message, PublishRequest, PublishResponse, PublishStreamRequest, PublishStreamResponse,
    ReadMessagesRequest, StartPosition,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::rows::ROW;
use crate::{Error, MAX_RESPONSE_BYTES, PATIENCE, TOPIC, connect};

/// Rows a request.
const BATCH: usize = 100;
/// Requests under way at once.
const IN_FLIGHT: usize = 16;

/// What publishing took.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// Requests sent, those sent again included.
    pub(crate) batches: u64,
    /// Rows that were stored although their receipts were lost.
    pub(crate) found: u64,
}

/// Publishes an iterator of messages.
pub(crate) struct Publisher<I> {
    address: String,
    rows: I,
    /// Sent and not acknowledged, in order.
    window: VecDeque<Batch>,
    /// The last row known to be stored, which is its offset too.
    stored: watch::Sender<u64>,
    next_row: u64,
    published: Published,
}

struct Batch {
    /// The number of the first row.
    first: u64,
    messages: Vec<Message>,
}

/// Why a connection ended.
enum Broken {
    /// The server went away; another connection goes on.
    Lost,
    Fatal(Error),
}

impl<I: Iterator<Item = Result<Message, Error>> + Send> Publisher<I> {
    pub(crate) fn new(address: String, rows: I, stored: watch::Sender<u64>) -> Self {
        let (window, published) = (VecDeque::new(), Published::default());
        Self { address, rows, window, stored, next_row: 1, published }
    }

    /// Publishes all rows.
    pub(crate) async fn run(mut self) -> Result<Published, Error> {
        loop {
            let channel = connect(&self.address).await?;
            match self.connection(channel).await {
                Ok(()) => return Ok(self.published),
                Err(Broken::Lost) => {}
                Err(Broken::Fatal(error)) => return Err(error),
            }
        }
    }

    async fn connection(&mut self, channel: Channel) -> Result<(), Broken> {
        self.reconcile(channel.clone()).await?;
        let (requests, stream) = mpsc::channel(IN_FLIGHT);
        let mut client = PublisherServiceClient::new(channel);
        let mut answers = client.publish_stream(ReceiverStream::new(stream)).await?.into_inner();
        for batch in &self.window {
            let _ = requests.send(batch.request()).await;
            self.published.batches += 1;
        }
        loop {
            while self.window.len() < IN_FLIGHT {
                let Some(batch) = self.next_batch()? else { break };
                // A send fails only when the connection has, and then the answers say so.
                let _ = requests.send(batch.request()).await;
                self.published.batches += 1;
                self.window.push_back(batch);
            }
            if self.window.is_empty() {
                return Ok(());
            }
            let answer = tokio::time::timeout(PATIENCE, answers.message()).await;
            let answer = answer.map_err(|_| Broken::Fatal("the server does not answer".into()))??;
            self.answered(answer.ok_or(Broken::Lost)?)?;
        }
    }

    /// Finds out which of the rows under way are stored, and forgets those.
    async fn reconcile(&mut self, channel: Channel) -> Result<(), Broken> {
        let mut client = SubscriberServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
        let before = *self.stored.borrow();
        let mut stored = before;
        while !self.window.is_empty() {
            let position = Some(Position::Offset(stored + 1));
            let start = Some(StartPosition { position });
            let request = ReadMessagesRequest { topic: TOPIC.into(), start, max_messages: 0, max_bytes: 0 };
            let page = client.read_messages(request).await?.into_inner().messages;
            if page.is_empty() {
                break;
            }
            for message in page {
                stored += 1;
                let row = message.message.and_then(|message| message.attributes.get(ROW)?.parse().ok());
                if message.offset != stored || row != Some(stored) {
                    let found = message.offset;
                    return Err(fatal(format!(
                        "offset {found} holds row {row:?} where row {stored} belongs"
                    )));
                }
            }
        }
        self.published.found += stored - before;
        self.window.retain_mut(|batch| batch.forget_up_to(stored));
        self.stored.send_replace(stored);
        Ok(())
    }

    fn next_batch(&mut self) -> Result<Option<Batch>, Broken> {
        let messages: Vec<_> =
            self.rows.by_ref().take(BATCH).collect::<Result<_, _>>().map_err(Broken::Fatal)?;
        let first = self.next_row;
        self.next_row += messages.len() as u64;
        Ok((!messages.is_empty()).then_some(Batch { first, messages }))
    }

    fn answered(&mut self, answer: PublishStreamResponse) -> Result<(), Broken> {
        match answer.result {
            Some(Outcome::Receipt(PublishResponse { first_offset, last_offset, .. })) => {
                let batch = self.window.pop_front();
                let expected = batch.map(|batch| (batch.first, batch.first, batch.last()));
                if expected != Some((answer.request_id, first_offset, last_offset)) {
                    return Err(fatal(format!("{answer:?} is no receipt for {expected:?}")));
                }
                self.stored.send_replace(last_offset);
                Ok(())
            }
            Some(Outcome::Error(error)) if error.code == Code::Unavailable as i32 => Err(Broken::Lost),
            other => Err(fatal(format!("a batch was refused: {other:?}"))),
        }
    }
}

impl Batch {
    fn last(&self) -> u64 {
        self.first + self.messages.len() as u64 - 1
    }

    fn request(&self) -> PublishStreamRequest {
        let (topic, messages) = (TOPIC.into(), self.messages.clone());
        PublishStreamRequest {
            request_id: self.first,
            publish: Some(PublishRequest { topic, messages, durability: 0, ..PublishRequest::default() }),
        }
    }

    /// Leaves out the rows that are stored; says whether any are left.
    fn forget_up_to(&mut self, stored: u64) -> bool {
        let known = (stored + 1).saturating_sub(self.first).min(self.messages.len() as u64);
        self.messages.drain(..usize::try_from(known).unwrap_or(usize::MAX));
        self.first += known;
        !self.messages.is_empty()
    }
}

impl From<Status> for Broken {
    /// A status with a source was made on this side, because the connection failed.
    fn from(status: Status) -> Self {
        if status.code() == Code::Unavailable || std::error::Error::source(&status).is_some() {
            return Self::Lost;
        }
        Self::Fatal(status.into())
    }
}

fn fatal(what: String) -> Broken {
    Broken::Fatal(what.into())
}
