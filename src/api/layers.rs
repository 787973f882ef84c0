//! What every call passes through, around the services.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Either, Map};
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tower::{Layer, Service};

use super::status::{deadline_exceeded, explain, shutting_down};

type Answer<B, E> = Result<Response<B>, E>;

/// Sees to it that every error answer is one of ours: calls that outlast their deadline answer
/// `DEADLINE_EXCEEDED` (tonic says `CANCELLED`), and refusals that tonic makes on its own get the details
/// and codes of this API.
#[derive(Clone)]
pub(crate) struct AnswerLayer;

impl<S> Layer<S> for AnswerLayer {
    type Service = AnswerService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AnswerService(inner)
    }
}

/// See [`AnswerLayer`].
#[derive(Clone)]
pub(crate) struct AnswerService<S>(S);

impl<S, A, B> Service<Request<A>> for AnswerService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: Default + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<
        Map<S::Future, fn(Answer<B, S::Error>) -> Answer<B, S::Error>>,
        BoxFuture<'static, Answer<B, S::Error>>,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let deadline = deadline(request.headers());
        // Polled before tonic's own timer, which was started later: this one wins.
        let call = self.0.call(request).map(explained as fn(Answer<B, S::Error>) -> Answer<B, S::Error>);
        match deadline {
            None => Either::Left(call),
            Some(deadline) => Either::Right(
                tokio::time::timeout(deadline, call)
                    .map(|answer| answer.unwrap_or_else(|_| Ok(deadline_exceeded().into_http())))
                    .boxed(),
            ),
        }
    }
}

/// Rewrites an answer that is an error by tonic: one that came at once and has no details.
fn explained<B: Default, E>(answer: Answer<B, E>) -> Answer<B, E> {
    answer.map(|response| {
        let headers = response.headers();
        if !headers.contains_key(Status::GRPC_STATUS) || headers.contains_key("grpc-status-details-bin") {
            return response;
        }
        match Status::from_header_map(headers) {
            Some(status) if status.code() != tonic::Code::Ok => explain(&status).into_http(),
            _ => response,
        }
    })
}

/// The `grpc-timeout` of a call: at most eight digits and a unit. One that cannot be read is
/// ignored, as tonic does.
pub(super) fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_hours(number),
        "M" => Duration::from_mins(number),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Ends the streams of a service when the server stops. For services from elsewhere, whose streams
/// would otherwise hold the server up; ours say Goaway first.
#[derive(Clone)]
pub(super) struct UntilStopLayer(CancellationToken);

impl UntilStopLayer {
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self(stop)
    }
}

impl<S> Layer<S> for UntilStopLayer {
    type Service = UntilStopService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        UntilStopService { inner, stop: self.0.clone() }
    }
}

/// See [`UntilStopLayer`].
#[derive(Clone)]
pub(super) struct UntilStopService<S> {
    inner: S,
    stop: CancellationToken,
}

impl<S, B> Service<Request<tonic::body::Body>> for UntilStopService<S>
where
    S: Service<Request<tonic::body::Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Response = Response<tonic::body::Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let stop = self.stop.clone();
        // A service that still reads requests would keep the stream open after its last answer.
        let request = request.map(|body| until_stop(body, stop.clone(), |_| None));
        let limited = |body| until_stop(body, stop, |trailers| Some(Frame::trailers(trailers)));
        self.inner.call(request).map(|answer| answer.map(|response| response.map(limited))).boxed()
    }
}

fn until_stop<B>(body: B, stop: CancellationToken, last: LastFrame) -> tonic::body::Body
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    tonic::body::Body::new(UntilStop { body, stop: stop.cancelled_owned(), last: Some(last) })
}

/// Makes the frame that ends a stopped body, given the trailers of a response.
type LastFrame = fn(HeaderMap) -> Option<Frame<Bytes>>;

pin_project! {
    /// A body that ends when the server stops.
    struct UntilStop<B> {
        #[pin]
        body: B,
        #[pin]
        stop: WaitForCancellationFutureOwned,
        last: Option<LastFrame>,
    }
}

impl<B: Body<Data = Bytes>> Body for UntilStop<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.project();
        let Some(last) = *this.last else { return Poll::Ready(None) };
        // First what there still is to say, such as that the server is NOT_SERVING now.
        if let Poll::Ready(frame) = this.body.poll_frame(cx) {
            return Poll::Ready(frame);
        }
        ready!(this.stop.poll(cx));
        *this.last = None;
        let mut trailers = HeaderMap::new();
        // Fails only on a message that is no header value; then the stream just ends.
        let _ = shutting_down().add_header(&mut trailers);
        Poll::Ready(last(trailers).map(Ok))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_timeouts_of_every_unit() {
        let read = |text: &str| {
            deadline(&HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-timeout"),
                http::HeaderValue::from_str(text).unwrap(),
            )]))
        };
        assert_eq!(read("2H"), Some(Duration::from_hours(2)));
        assert_eq!(read("3M"), Some(Duration::from_mins(3)));
        assert_eq!(read("10S"), Some(Duration::from_secs(10)));
        assert_eq!(read("99999999m"), Some(Duration::from_millis(99_999_999)));
        assert_eq!(read("5u"), Some(Duration::from_micros(5)));
        assert_eq!(read("7n"), Some(Duration::from_nanos(7)));
        for bad in ["", "S", "5", "-1S", "123456789S", "5x"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }
}
