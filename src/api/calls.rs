//! Counts calls, and measures how long they take: by method, and by the code that they end with.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::meter::{Counter, Distribution, Histogram, Level, Present, SECONDS};
use crate::proto::FILE_DESCRIPTOR_SET;

/// The codes that a call can end with, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The meters of every method. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Calls(Arc<Methods>);

#[derive(Debug)]
struct Methods {
    /// By path, such as `/columba.v1.TopicService/GetTopic`.
    known: HashMap<String, Arc<Method>>,
    /// Of calls of methods that there are not, whose names anybody may make up.
    unknown: Arc<Method>,
}

#[derive(Debug)]
struct Method {
    is_streaming: bool,
    open: Level,
    ended: [Counter; CODES.len()],
    /// Of methods without streams: how long a stream lasts is its client's choice.
    durations: Histogram,
}

/// What is known of a method's calls.
#[derive(Debug, Clone)]
pub(crate) struct MethodReadings {
    /// The method, such as `columba.v1.TopicService/GetTopic`; `None` for all that there are not.
    pub(crate) method: Option<String>,
    /// Calls that have ended, by code: OK, and those that there were.
    pub(crate) ended: Vec<(&'static str, u64)>,
    /// Streams that are open; `None` if it has none.
    pub(crate) open: Option<u64>,
    /// How long calls took, in seconds; `None` if it has streams.
    pub(crate) durations: Option<Distribution>,
}

impl Calls {
    /// Nothing was called yet.
    pub(crate) fn new() -> Self {
        let sets = [
            FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let known = sets.iter().flat_map(|set| methods(set));
        let known = known.map(|(path, is_streaming)| (path, Arc::new(Method::new(is_streaming))));
        Self(Arc::new(Methods { known: known.collect(), unknown: Arc::new(Method::new(false)) }))
    }

    fn method(&self, path: &str) -> Arc<Method> {
        Arc::clone(self.0.known.get(path).unwrap_or(&self.0.unknown))
    }

    /// What has been called so far, in the order of names.
    pub(crate) fn read(&self) -> Vec<MethodReadings> {
        let known = self.0.known.iter();
        let mut readings: Vec<_> =
            known.map(|(path, method)| method.read(Some(path[1..].to_owned()))).collect();
        readings.sort_by(|a, b| a.method.cmp(&b.method));
        readings.push(self.0.unknown.read(None));
        readings
    }
}

/// The paths of all methods of some descriptors, and whether they have streams.
fn methods(set: &[u8]) -> Vec<(String, bool)> {
    let set = FileDescriptorSet::decode(set).expect("the descriptors come from the build");
    let mut found = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                found.push((path, method.client_streaming() || method.server_streaming()));
            }
        }
    }
    found
}

impl Method {
    fn new(is_streaming: bool) -> Self {
        let ended = std::array::from_fn(|_| Counter::default());
        Self { is_streaming, open: Level::default(), ended, durations: Histogram::new(&SECONDS) }
    }

    fn read(&self, method: Option<String>) -> MethodReadings {
        let ended = CODES.into_iter().zip(self.ended.iter().map(Counter::get));
        MethodReadings {
            method,
            ended: ended.filter(|&(code, count)| code == CODES[0] || count > 0).collect(),
            open: self.is_streaming.then(|| self.open.get()),
            durations: (!self.is_streaming).then(|| self.durations.read()),
        }
    }
}

/// A call on its way. Its end is counted once, when it is dropped at the latest.
#[derive(Debug)]
struct Call {
    method: Arc<Method>,
    begun: Instant,
    /// None once it has ended.
    open: Option<Present>,
}

impl Call {
    fn new(method: Arc<Method>) -> Self {
        let open = Some(method.open.enter());
        Self { method, begun: Instant::now(), open }
    }

    fn end(&mut self, code: Code) {
        if self.open.take().is_none() {
            return;
        }
        let place = usize::try_from(i32::from(code)).ok();
        if let Some(count) = place.and_then(|place| self.method.ended.get(place)) {
            count.add(1);
        }
        if !self.method.is_streaming {
            self.method.durations.time(self.begun.elapsed());
        }
    }

    /// Ends with what the headers or trailers say, if they do.
    fn end_with(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get(Status::GRPC_STATUS) {
            self.end(Code::from_bytes(code.as_bytes()));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // Nobody waits for the rest of the answer any more.
        self.end(Code::Cancelled);
    }
}

/// Counts and measures calls. What is within it decides how they end.
#[derive(Debug, Clone)]
pub(crate) struct CallsLayer(pub(crate) Calls);

impl<S> Layer<S> for CallsLayer {
    type Service = CallsService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallsService { inner, calls: self.0.clone() }
    }
}

/// See [`CallsLayer`].
#[derive(Debug, Clone)]
pub(crate) struct CallsService<S> {
    inner: S,
    calls: Calls,
}

impl<S, A, B> Service<Request<A>> for CallsService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    // Boxed here, which the server would do itself: what is around this need not be told apart.
    type Response = Response<tonic::body::Body>;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let call = Call::new(self.calls.method(request.uri().path()));
        Answering { answer: self.inner.call(request), call: Some(call) }
    }
}

pin_project! {
    /// A call whose answer has not begun.
    pub(crate) struct Answering<F> {
        #[pin]
        answer: F,
        call: Option<Call>,
    }
}

impl<F, B, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Output = Result<Response<tonic::body::Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.answer.poll(cx));
        let call = this.call.take();
        Poll::Ready(answer.map(|response| {
            let (head, body) = response.into_parts();
            let mut counted = Counted { body, call };
            // An error that came at once is told there.
            if let Some(call) = &mut counted.call {
                call.end_with(&head.headers);
            }
            Response::from_parts(head, tonic::body::Body::new(counted))
        }))
    }
}

pin_project! {
    /// The body of an answer, whose end is the call's.
    pub(crate) struct Counted<B> {
        #[pin]
        body: B,
        call: Option<Call>,
    }
}

impl<B: Body> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        let Some(call) = this.call else { return Poll::Ready(frame) };
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    call.end_with(trailers);
                }
            }
            Some(Err(_)) | None => call.end(Code::Unknown),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_named_as_their_numbers_say() {
        for (number, name) in CODES.into_iter().enumerate() {
            let code = Code::from_i32(i32::try_from(number).unwrap());
            assert_eq!(format!("{code:?}").to_uppercase(), name.replace('_', ""));
        }
    }

    #[test]
    fn knows_every_method_and_whether_it_has_streams() {
        let calls = Calls::new();
        let method = |path: &str| calls.0.known.get(path).map(|method| method.is_streaming);
        assert_eq!(method("/columba.v1.PublisherService/Publish"), Some(false));
        assert_eq!(method("/columba.v1.SubscriberService/Subscribe"), Some(true));
        assert_eq!(method("/grpc.health.v1.Health/Watch"), Some(true));
        assert_eq!(method("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"), Some(true));
        assert_eq!(method("/columba.v1.PublisherService/Made_Up"), None);
    }

    #[test]
    fn what_was_made_up_is_counted_together() {
        let calls = Calls::new();
        for path in ["/a/b", "/c/d", ""] {
            calls.method(path).ended[12].add(1);
        }
        let unknown = calls.read().pop().unwrap();
        assert_eq!(unknown.ended, [("OK", 0), ("UNIMPLEMENTED", 3)]);
    }

    #[test]
    fn a_call_that_is_given_up_is_cancelled_and_counted_once() {
        let method = Arc::new(Method::new(true));
        let mut call = Call::new(Arc::clone(&method));
        assert_eq!(method.read(None).open, Some(1));
        call.end(Code::Ok);
        drop(call);
        drop(Call::new(Arc::clone(&method)));
        let read = method.read(None);
        assert_eq!((read.ended, read.open), (vec![("OK", 1), ("CANCELLED", 1)], Some(0)));
    }
}
