//! Keys that are asked for over HTTP: an issuer that is away, slow, or answers nonsense.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use columba::identity::jwt::Location;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tonic::Code;

use crate::authority::{Authority, Pair};
use crate::common::{assert_refused, within};
use crate::issuer::{EcKey, key_set, settings};
use crate::{call_with, eventually, identifying};

/// What the endpoint does.
#[derive(Clone)]
enum Mode {
    Answers(String),
    HangsUp,
    Is(u16),
    SaysNothing,
    NeverEnds,
}

struct Endpoint {
    address: SocketAddr,
    mode: Arc<Mutex<Mode>>,
    asked: Arc<AtomicUsize>,
}

impl Endpoint {
    async fn start(mode: Mode, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, asked) = (Arc::new(Mutex::new(mode)), Arc::new(AtomicUsize::new(0)));
        let (shared, count) = (mode.clone(), asked.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let mode = shared.lock().unwrap().clone();
                let tls = tls.clone();
                tokio::spawn(async move {
                    match tls {
                        None => answer(stream, mode).await,
                        Some(tls) => answer(tls.accept(stream).await?, mode).await,
                    }
                });
            }
        });
        Self { address, mode, asked }
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn location(&self, min_interval: Duration) -> Location {
        let url = format!("http://{}/keys", self.address).parse().unwrap();
        Location::Url { url, ca: None, refresh: Duration::from_secs(3600), min_interval }
    }
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, mode: Mode) -> std::io::Result<()> {
    let mut request = vec![0; 4096];
    let length = stream.read(&mut request).await?;
    assert!(request[..length].starts_with(b"GET /keys HTTP/1.1\r\n"));
    let head =
        |status: u16, length: usize| format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n\r\n");
    match mode {
        Mode::Answers(keys) => stream.write_all((head(200, keys.len()) + &keys).as_bytes()).await?,
        Mode::HangsUp => {}
        Mode::Is(status) => stream.write_all(head(status, 0).as_bytes()).await?,
        Mode::SaysNothing => std::future::pending().await,
        Mode::NeverEnds => {
            stream.write_all(head(200, 1 << 30).as_bytes()).await?;
            loop {
                stream.write_all(&[b' '; 8192]).await?;
            }
        }
    }
    stream.shutdown().await
}

/// No wait between two times that the endpoint is asked.
const AT_ONCE: Duration = Duration::ZERO;

#[tokio::test]
async fn a_token_with_an_unknown_key_has_the_keys_asked_for() {
    let (old, new) = (EcKey::new("old"), EcKey::new("new"));
    let endpoint = Endpoint::start(Mode::Answers(key_set(&[old.public()])), None).await;
    let server = identifying(settings(endpoint.location(AT_ONCE), Duration::ZERO), None).await;
    within(call_with(&server, &old.token(&json!({})))).await.unwrap();
    endpoint.set(Mode::Answers(key_set(&[old.public(), new.public()])));
    within(call_with(&server, &new.token(&json!({})))).await.unwrap();
    assert_eq!(endpoint.asked(), 2);
}

#[tokio::test]
async fn unknown_keys_do_not_flood_the_endpoint() {
    let (known, unknown) = (EcKey::new("known"), EcKey::new("unknown"));
    let endpoint = Endpoint::start(Mode::Answers(key_set(&[known.public()])), None).await;
    let location = endpoint.location(Duration::from_secs(3600));
    let server = identifying(settings(location, Duration::ZERO), None).await;
    within(call_with(&server, &known.token(&json!({})))).await.unwrap();
    for _ in 0..20 {
        let refused = within(call_with(&server, &unknown.token(&json!({})))).await;
        assert_refused(refused, Code::Unauthenticated, "UNKNOWN_KEY");
    }
    assert_eq!(endpoint.asked(), 1);
}

#[tokio::test]
async fn keys_that_were_good_stay_in_use() {
    let (known, unknown) = (EcKey::new("known"), EcKey::new("unknown"));
    let good = key_set(&[known.public()]);
    let endpoint = Endpoint::start(Mode::Answers(good.clone()), None).await;
    let server = identifying(settings(endpoint.location(AT_ONCE), Duration::ZERO), None).await;
    within(call_with(&server, &known.token(&json!({})))).await.unwrap();
    for bad in [
        Mode::HangsUp,
        Mode::Is(500),
        Mode::Is(302),
        Mode::Answers("<html>".into()),
        Mode::Answers("{\"keys\":[]}".into()),
        Mode::NeverEnds,
        Mode::SaysNothing,
    ] {
        endpoint.set(bad);
        let asked = endpoint.asked();
        let refused = within(call_with(&server, &unknown.token(&json!({})))).await;
        assert_refused(refused, Code::Unauthenticated, "UNKNOWN_KEY");
        eventually(async || endpoint.asked() > asked).await;
        within(call_with(&server, &known.token(&json!({ "jti": asked })))).await.unwrap();
    }
    endpoint.set(Mode::Answers(key_set(&[unknown.public()])));
    eventually(async || call_with(&server, &unknown.token(&json!({}))).await.is_ok()).await;
}

#[tokio::test]
async fn the_server_starts_without_the_issuer_and_takes_tokens_once_it_is_there() {
    let key = EcKey::new("key");
    let endpoint = Endpoint::start(Mode::HangsUp, None).await;
    let server = identifying(settings(endpoint.location(AT_ONCE), Duration::ZERO), None).await;
    let token = key.token(&json!({}));
    assert_refused(within(call_with(&server, &token)).await, Code::Unavailable, "KEYS_UNAVAILABLE");
    endpoint.set(Mode::Answers(key_set(&[key.public()])));
    eventually(async || call_with(&server, &token).await.is_ok()).await;
}

fn acceptor(pair: &Pair) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let provider = tokio_rustls::rustls::crypto::ring::default_provider().into();
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn https_is_asked_if_its_authority_is_trusted() {
    let (authority, key) = (Authority::new("root"), EcKey::new("key"));
    let dir = tempfile::tempdir().unwrap();
    let (good, other) = (dir.path().join("good.pem"), dir.path().join("other.pem"));
    std::fs::write(&good, authority.pem()).unwrap();
    std::fs::write(&other, Authority::new("other").pem()).unwrap();
    let keys = Mode::Answers(key_set(&[key.public()]));
    let endpoint = Endpoint::start(keys, Some(acceptor(&authority.server()))).await;
    let url = format!("https://{}/keys", endpoint.address);
    for (ca, works) in [(good, true), (other, false)] {
        let location = Location::url(url.parse().unwrap(), Some(ca), Duration::from_secs(60));
        let server = identifying(settings(location, Duration::ZERO), None).await;
        assert_eq!(within(call_with(&server, &key.token(&json!({})))).await.is_ok(), works);
    }
}
