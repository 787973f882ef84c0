//! Lets in who has shown who they are, and only for as long as that holds.
//!
//! A call that is let in carries its [`Caller`] in the request's extensions. The bodies of calls that stay
//! open are checked now and then: when the caller would not be let in any more, or may not do any more
//! what the call is about, what they send is not read any further and the stream ends.

use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Either};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::access::{Caller, Security, Told};
use crate::identity::{Authenticator, Refused, Session, Settings};
use crate::tls::ClientCertificate;

/// The other end of a connection; in the extensions of each of its requests.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Where it connects from, if the system knows.
    pub(crate) address: Option<SocketAddr>,
    /// The certificate that it has shown.
    pub(crate) certificate: Option<Arc<ClientCertificate>>,
}

/// Refuses calls of unknown callers. Without an authenticator, it does nothing.
#[derive(Clone)]
pub(crate) struct AuthenticateLayer(Security);

impl AuthenticateLayer {
    pub(crate) fn new(security: Security) -> Self {
        Self(security)
    }
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = AuthenticateService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AuthenticateService { inner, security: self.0.clone() }
    }
}

/// See [`AuthenticateLayer`].
#[derive(Clone)]
pub(crate) struct AuthenticateService<S> {
    inner: S,
    security: Security,
}

impl<S> Service<Request<Body>> for AuthenticateService<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let closed = |one: &&Arc<Authenticator>| !is_open(one.settings(), request.uri().path());
        let Some(authenticator) = self.security.authenticator.as_ref().filter(closed).map(Arc::clone) else {
            return Either::Left(self.inner.call(request));
        };
        // The one that is ready is used, and a fresh one is kept.
        let fresh = self.inner.clone();
        let inner = mem::replace(&mut self.inner, fresh);
        Either::Right(call(inner, request, self.security.clone(), authenticator).boxed())
    }
}

async fn call<S>(
    mut inner: S,
    mut request: Request<Body>,
    security: Security,
    authenticator: Arc<Authenticator>,
) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    let peer = request.extensions().get::<Peer>().and_then(|peer| peer.address);
    let session = match authenticate(&authenticator, &mut request).await {
        Ok(session) => session,
        Err(refused) => {
            let (service, method) = service_and_method(request.uri().path());
            security.audit.unauthenticated(&Told { principal: None, peer, service, method }, &refused);
            return Ok(Status::from(&refused).into_http());
        }
    };
    let caller = Arc::new(Caller::new(security, authenticator, session, peer));
    request.extensions_mut().insert(Arc::clone(&caller));
    let request = request.map(|body| Body::new(Guarded::new(body, Arc::clone(&caller), Side::Request)));
    let response = inner.call(request).await?;
    Ok(response.map(|body| Body::new(Guarded::new(body, caller, Side::Response))))
}

fn service_and_method(path: &str) -> (&str, &str) {
    path.trim_start_matches('/').split_once('/').unwrap_or((path, ""))
}

/// Whether a method needs no identity.
fn is_open(settings: &Settings, path: &str) -> bool {
    (settings.open_health && path.starts_with("/grpc.health.v1.Health/"))
        || (settings.open_reflection && path.starts_with("/grpc.reflection."))
}

async fn authenticate(
    authenticator: &Authenticator,
    request: &mut Request<Body>,
) -> Result<Session, Refused> {
    // Taken away, so that nothing behind this can leak it.
    let mut headers = Vec::new();
    if let http::header::Entry::Occupied(entry) = request.headers_mut().entry(AUTHORIZATION) {
        headers.extend(entry.remove_entry_mult().1);
    }
    let token = match &*headers {
        [] => None,
        [header] => Some(bearer(header.to_str().map_err(|_| Refused::Malformed("it is not ASCII"))?)?),
        _ => return Err(Refused::Malformed("it is there more than once")),
    };
    let certificate = request.extensions().get::<Peer>().and_then(|peer| peer.certificate.as_ref());
    authenticator.authenticate(token, certificate).await
}

fn bearer(header: &str) -> Result<&str, Refused> {
    let (scheme, token) = header.split_once(' ').unwrap_or((header, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refused::Malformed("its scheme is not Bearer"));
    }
    Ok(token.trim())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Request,
    Response,
}

/// A body that ends when its caller would not be let in any more.
struct Guarded {
    /// None once it has ended in that way.
    body: Option<Body>,
    caller: Arc<Caller>,
    side: Side,
    check_at: Instant,
    /// Wakes a silent body up for its next check; most bodies are never silent for so long.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    fn new(body: Body, caller: Arc<Caller>, side: Side) -> Self {
        let check_at = Instant::now() + caller.recheck();
        Self { body: Some(body), caller, side, check_at, timer: None }
    }

    /// Why the body must end, looked at anew when it is time to.
    fn refused(&mut self) -> Option<&Status> {
        let now = Instant::now();
        if now < self.check_at {
            return self.caller.refused();
        }
        self.check_at = now + self.caller.recheck();
        self.timer = None;
        self.caller.recheck_now()
    }

    /// Waits for the next check.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let at = self.check_at;
        self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at))).poll_unpin(cx)
    }

    /// The last frame of a body whose caller is not let in any more.
    fn end(&mut self) -> Option<Result<Frame<Bytes>, Status>> {
        self.body.take()?;
        let status = self.caller.refused()?.clone();
        if self.side == Side::Request {
            return Some(Err(status));
        }
        let mut trailers = HeaderMap::new();
        // Fails only on a message that is no header value; then the stream just ends.
        let _ = status.add_header(&mut trailers);
        Some(Ok(Frame::trailers(trailers)))
    }
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if self.refused().is_some() {
                return Poll::Ready(self.end());
            }
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
                // What the service says of a request that was cut off here is not the reason.
                let cut_off = self.caller.refused().is_some();
                return Poll::Ready(if cut_off { self.end() } else { frame });
            }
            std::task::ready!(self.poll_timer(cx));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, http_body::Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_bearers_only() {
        assert_eq!(bearer("Bearer abc"), Ok("abc"));
        assert_eq!(bearer("bearer  abc "), Ok("abc"));
        assert_eq!(bearer("Bearer"), Ok(""));
        for other in ["Basic abc", "abc", "", "Bearerabc"] {
            assert!(bearer(other).is_err(), "{other:?}");
        }
    }

    #[tokio::test]
    async fn a_call_that_is_let_in_says_who_calls_and_carries_no_token() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = dir.path().join("tokens.toml");
        let hash = crate::identity::hash("secret");
        let file = format!("[[tokens]]\nprincipal = 'billing'\ngroups = ['a']\nhash = '{hash}'\n");
        std::fs::write(&tokens, file).unwrap();
        let settings = Settings { tokens: Some(tokens), ..Settings::default() };
        let authenticator = Authenticator::open(settings, None).unwrap();
        let inner = tower::service_fn(async |request: Request<Body>| {
            assert!(!request.headers().contains_key(AUTHORIZATION));
            let principal = request.extensions().get::<Arc<Caller>>().unwrap().principal();
            let header = format!("{} {:?} {:?}", principal.name, principal.method, principal.groups);
            let response = Response::builder().header("principal", header);
            Ok::<_, std::convert::Infallible>(response.body(Body::empty()).unwrap())
        });
        let mut service = AuthenticateLayer::new(Security::new(authenticator, None)).layer(inner);
        let request = Request::builder().header(AUTHORIZATION, "Bearer secret").body(Body::empty()).unwrap();
        let response = service.call(request).await.unwrap();
        assert_eq!(response.headers()["principal"], "billing Token [\"a\"]");
        let response = service.call(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "16");
    }

    #[test]
    fn only_what_the_settings_open_is_open() {
        let open = |health, reflection, path| {
            is_open(
                &Settings { open_health: health, open_reflection: reflection, ..Settings::default() },
                path,
            )
        };
        let (health, reflection) = ("/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/X");
        assert!(open(true, false, health) && !open(true, false, reflection));
        assert!(!open(false, true, health) && open(false, true, reflection));
        for closed in ["/columba.v1.TopicService/ListTopics", "/", "", "/grpc.health.v1.Healthy/Check"] {
            assert!(!open(true, true, closed), "{closed:?}");
        }
    }
}
