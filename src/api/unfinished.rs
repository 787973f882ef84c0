//! Requests that have begun to arrive and are not complete: how many bytes of them the server holds,
//! and for how long.
//!
//! A message is collected in memory until its last byte has come. Over many streams that is a lot more
//! than one request may have, and a client that never finishes would hold it for ever.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::Request;
use http_body::Frame;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::status::{too_many_unfinished, unfinished};

/// How long one message may take to arrive.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// Compressed or not, and the length in four bytes.
const HEADER: usize = 5;

/// Limits what unfinished requests may hold.
#[derive(Clone)]
pub(crate) struct UnfinishedLayer(Arc<Semaphore>);

impl UnfinishedLayer {
    /// At most so many bytes over all requests.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))))
    }
}

impl<S> Layer<S> for UnfinishedLayer {
    type Service = UnfinishedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        UnfinishedService { inner, budget: Arc::clone(&self.0) }
    }
}

/// See [`UnfinishedLayer`].
#[derive(Clone)]
pub(crate) struct UnfinishedService<S> {
    inner: S,
    budget: Arc<Semaphore>,
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for UnfinishedService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let budget = Arc::clone(&self.budget);
        self.inner.call(request.map(|body| Body::new(Metered::new(body, budget))))
    }
}

/// A request's body, whose bytes count until the message that they belong to is complete and read.
struct Metered {
    body: Body,
    budget: Arc<Semaphore>,
    /// What has come and may not have been read.
    held: Option<OwnedSemaphorePermit>,
    place: Place,
    /// Ends when the message that is arriving takes too long.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Metered {
    fn new(body: Body, budget: Arc<Semaphore>) -> Self {
        Self { body, budget, held: None, place: Place::default(), timer: None }
    }

    /// Accounts for what has come.
    fn take(&mut self, data: &[u8]) -> Result<(), Status> {
        let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.budget).try_acquire_many_owned(bytes);
        let permit = permit.map_err(|_| too_many_unfinished())?;
        match &mut self.held {
            Some(held) => held.merge(permit),
            None => self.held = Some(permit),
        }
        let messages = self.place.pass(data);
        if messages > 0 {
            // Another message, with a time of its own.
            self.timer = None;
        }
        if self.place.is_within() && self.timer.is_none() {
            self.timer = Some(Box::pin(tokio::time::sleep_until(Instant::now() + MESSAGE_TIMEOUT)));
        }
        Ok(())
    }
}

impl http_body::Body for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // Whoever asks for more has read what was complete: only what is not still counts.
        let within = self.place.arrived;
        if let Some(held) = &mut self.held {
            drop(held.split(held.num_permits().saturating_sub(within)));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let taken = frame.data_ref().map_or(Ok(()), |data| self.take(data));
                Poll::Ready(Some(taken.map(|()| frame)))
            }
            Poll::Pending if self.timer.as_mut().is_some_and(|timer| timer.poll_unpin(cx).is_ready()) => {
                Poll::Ready(Some(Err(unfinished(MESSAGE_TIMEOUT))))
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Where in the sequence of messages a body is.
#[derive(Debug, Default)]
struct Place {
    header: [u8; HEADER],
    /// Bytes of the header that have come.
    header_bytes: usize,
    /// Bytes of the message that are still to come, once its header has.
    left: usize,
    /// Bytes of the message and its header that have come.
    arrived: usize,
}

impl Place {
    /// Whether a message has begun and is not complete.
    fn is_within(&self) -> bool {
        self.header_bytes > 0
    }

    /// Moves on; says how many messages were completed.
    fn pass(&mut self, mut data: &[u8]) -> usize {
        let mut completed = 0;
        while !data.is_empty() {
            if self.header_bytes < HEADER {
                let take = data.len().min(HEADER - self.header_bytes);
                self.header[self.header_bytes..][..take].copy_from_slice(&data[..take]);
                self.header_bytes += take;
                self.arrived += take;
                data = &data[take..];
                if self.header_bytes < HEADER {
                    break;
                }
                let [_, length @ ..] = self.header;
                self.left = u32::from_be_bytes(length) as usize;
            }
            let take = data.len().min(self.left);
            self.left -= take;
            self.arrived += take;
            data = &data[take..];
            if self.left == 0 {
                (self.header_bytes, self.arrived) = (0, 0);
                completed += 1;
            }
        }
        completed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the bytes are cut, the messages in them are found.
        #[test]
        fn finds_messages(lengths in prop::collection::vec(0usize..20, 0..10), cuts in 1usize..9) {
            let mut bytes = Vec::new();
            for &length in &lengths {
                bytes.push(0);
                bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
                bytes.extend(vec![7; length]);
            }
            let mut place = Place::default();
            let completed: usize = bytes.chunks(cuts).map(|chunk| place.pass(chunk)).sum();
            prop_assert_eq!(completed, lengths.len());
            prop_assert!(!place.is_within());
            prop_assert_eq!(place.arrived, 0);
            place.pass(&[0, 0, 0]);
            prop_assert!(place.is_within());
            prop_assert_eq!(place.arrived, 3);
        }
    }
}
