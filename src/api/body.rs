//! The body of a stream whose messages are large and may be read slowly.
//!
//! tonic encodes a message for each stream, whole, and the transport asks for the next one before it has sent the
//! first: a client that does not read would hold two large messages of its own. Here a message is handed over in
//! small pieces, and what many are told is shared by all of them until it is copied into a piece.
//!
//! tonic makes the bodies of responses, of streams that it encodes. So a service answers with an empty stream and
//! the body beside it ([`streamed`]), which a layer puts into its place ([`layer`]).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use futures::stream::{Empty, empty};
use http::HeaderMap;
use http_body::Frame;
use pin_project_lite::pin_project;
use tonic::body::Body;
use tonic::{Response, Status};
use tower::util::MapResponseLayer;

use super::status::Refusal;
use crate::cqrs::queries::{self, Held};

/// Bytes that are handed over at once. The transport holds two such pieces of a stream that nobody reads.
const PIECE: usize = 8 << 10;
/// Bytes before a message on the wire: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A message on its way out, encoded.
pub(super) struct Outgoing(VecDeque<Part>);

/// A part of a message.
enum Part {
    Own(Bytes),
    /// The payload of an answer.
    Shared(Arc<Held>),
}

impl Outgoing {
    /// A message of this stream alone.
    pub(super) fn own(message: &impl prost::Message) -> Self {
        let mut encoded = prefix(message.encoded_len());
        message.encode(&mut encoded).expect("a buffer grows");
        Self([Part::Own(encoded.freeze())].into())
    }

    /// A message in which the payload of `held`, of so many bytes, comes between these two parts.
    pub(super) fn around(head: &[u8], held: Arc<Held>, payload: usize, tail: Bytes) -> Self {
        let mut first = prefix(head.len() + payload + tail.len());
        first.extend_from_slice(head);
        Self([Part::Own(first.freeze()), Part::Shared(held), Part::Own(tail)].into())
    }

    #[cfg(test)]
    pub(super) fn bytes(self) -> Vec<u8> {
        self.0.iter().flat_map(|part| part.bytes().unwrap().to_vec()).collect()
    }
}

impl Part {
    /// All of it, unless it was taken away.
    fn bytes(&self) -> Option<Bytes> {
        match self {
            Self::Own(bytes) => Some(bytes.clone()),
            Self::Shared(held) => held.answer().map(|answer| answer.payload),
        }
    }
}

/// What comes before a message of this length.
fn prefix(length: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(PREFIX + length.min(PIECE));
    bytes.extend_from_slice(&[0]);
    bytes.extend_from_slice(&u32::try_from(length).expect("messages are limited").to_be_bytes());
    bytes
}

/// A response of these messages, and then the status that ends them.
pub(super) fn streamed<T>(
    messages: impl Stream<Item = Result<Outgoing, Status>> + Send + 'static,
) -> Response<Empty<T>> {
    let body = Body::new(Pieces { messages, parts: VecDeque::new(), at: 0, ended: false });
    let mut response = Response::new(empty());
    response.extensions_mut().insert(Beside(Arc::new(Mutex::new(Some(body)))));
    response
}

/// The body that a response is to have.
#[derive(Clone)]
struct Beside(Arc<Mutex<Option<Body>>>);

/// Gives responses the bodies that are beside them.
pub(super) type BesideLayer = MapResponseLayer<fn(http::Response<Body>) -> http::Response<Body>>;

pub(super) fn layer() -> BesideLayer {
    MapResponseLayer::new(with_body_beside)
}

fn with_body_beside(mut response: http::Response<Body>) -> http::Response<Body> {
    let beside = response.extensions_mut().remove::<Beside>();
    let body = beside.and_then(|Beside(body)| body.lock().unwrap_or_else(PoisonError::into_inner).take());
    match body {
        Some(body) => response.map(|_| body),
        None => response,
    }
}

pin_project! {
    /// The messages of a stream, piece by piece.
    struct Pieces<S> {
        #[pin]
        messages: S,
        // What is left of the message that is being handed over.
        parts: VecDeque<Part>,
        // How far it has come in the first of these.
        at: usize,
        ended: bool,
    }
}

impl<S: Stream<Item = Result<Outgoing, Status>>> http_body::Body for Pieces<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut this = self.project();
        if *this.ended {
            return Poll::Ready(None);
        }
        let end = loop {
            match piece(this.parts, this.at) {
                Some(piece) if piece.is_empty() => {}
                Some(piece) => return Poll::Ready(Some(Ok(Frame::data(piece)))),
                None => break Refusal::from(queries::Error::ReadTooSlowly).into(),
            }
            match ready!(this.messages.as_mut().poll_next(context)) {
                Some(Ok(Outgoing(parts))) => *this.parts = parts,
                Some(Err(status)) => break status,
                None => break Status::ok(""),
            }
        };
        *this.ended = true;
        this.parts.clear();
        let mut trailers = HeaderMap::new();
        end.add_header(&mut trailers)?;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

/// The next piece of a message; empty at its end, `None` if a part was taken away.
fn piece(parts: &mut VecDeque<Part>, at: &mut usize) -> Option<Bytes> {
    let mut piece = BytesMut::new();
    while let Some(part) = parts.front() {
        let bytes = part.bytes()?;
        let end = bytes.len().min(*at + PIECE - piece.len());
        // Copied: a slice would hold all of what it is a slice of.
        piece.extend_from_slice(&bytes[*at..end]);
        if end < bytes.len() {
            *at = end;
            break;
        }
        parts.pop_front();
        *at = 0;
    }
    Some(piece.freeze())
}
