//! Those who speak the wrong protocol, or none.

use std::time::Duration;

use columba::server::Options;
use columba::tls::Tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};

use crate::authority::Authority;
use crate::common::{TestServer, within};
use crate::files::Files;
use crate::{call, endpoint};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

struct Secured {
    server: TestServer,
    authority: Authority,
    _files: Files,
}

async fn secured(options: Options) -> Secured {
    let authority = Authority::new("root");
    let files = Files::tls(&authority.server(), "");
    let tls = Some(Tls::open(files.server_only()).unwrap());
    let server = TestServer::start_with(Options { tls, ..options }).await;
    Secured { server, authority, _files: files }
}

impl Secured {
    /// A client that does it right.
    async fn works(&self) {
        let endpoint = endpoint(self.server.address, &self.authority.pem(), None);
        within(call(within(endpoint.connect()).await.unwrap(), None)).await.unwrap();
    }
}

/// What a server answers to these bytes before it hangs up.
async fn answer(server: &TestServer, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn who_does_not_speak_tls_is_told_in_their_own_terms() {
    let secured = secured(Options::default()).await;
    let goaway = answer(&secured.server, PREFACE).await;
    // Frame type 7 with error 0xc, INADEQUATE_SECURITY, after the settings.
    assert_eq!((goaway[9 + 3], goaway[9 + 16]), (7, 0xc), "{goaway:?}");
    let text = String::from_utf8_lossy(&goaway).into_owned();
    assert!(text.ends_with("this port speaks TLS: use https:"), "{text}");
    let http = answer(&secured.server, b"GET / HTTP/1.1\r\nhost: columba\r\n\r\n").await;
    let text = String::from_utf8(http).unwrap();
    assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("TLS"), "{text}");
    secured.works().await;
}

#[tokio::test]
async fn who_speaks_tls_where_there_is_none_gets_an_alert() {
    let server = TestServer::start().await;
    let alert = answer(&server, &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).await;
    assert_eq!(alert, [0x15, 3, 1, 0, 2, 2, 40]);
    let authority = Authority::new("root");
    let refused = within(endpoint(server.address, &authority.pem(), None).connect()).await.unwrap_err();
    assert!(format!("{refused:?}").contains("HandshakeFailure"), "{refused:?}");
    server.create_topic("orders").await;
}

#[tokio::test]
async fn whoever_says_nothing_is_closed_and_their_slot_freed() {
    let options =
        Options { greeting_timeout: Duration::from_secs(1), max_connections: 1, ..Options::default() };
    let secured = secured(options).await;
    for beginning in [&[][..], &[0x16, 3, 1], &[0x16, 3, 1, 0, 5, 1]] {
        let mut silent = TcpStream::connect(secured.server.address).await.unwrap();
        silent.write_all(beginning).await.unwrap();
        // Waits for the only slot.
        secured.works().await;
        assert_eq!(within(silent.read(&mut [0; 8])).await.unwrap_or(0), 0);
    }
}

#[tokio::test]
async fn a_handshake_without_a_greeting_does_not_hold_a_slot() {
    let options =
        Options { greeting_timeout: Duration::from_secs(1), max_connections: 1, ..Options::default() };
    let secured = secured(options).await;
    let mut roots = tokio_rustls::rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(secured.authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = tokio_rustls::rustls::crypto::ring::default_provider().into();
    let config = tokio_rustls::rustls::ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config.with_no_client_auth()));
    let stream = TcpStream::connect(secured.server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut silent = within(connector.connect(name, stream)).await.unwrap();
    // Half a greeting is no greeting.
    silent.write_all(&PREFACE[..10]).await.unwrap();
    secured.works().await;
    assert_eq!(within(silent.read(&mut [0; 8])).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn handshakes_that_stall_hold_others_up_only_until_they_time_out() {
    let options =
        Options { greeting_timeout: Duration::from_secs(2), max_handshakes: 1, ..Options::default() };
    let secured = secured(options).await;
    let mut stalled = TcpStream::connect(secured.server.address).await.unwrap();
    stalled.write_all(&[0x16, 3, 1]).await.unwrap();
    let endpoint = endpoint(secured.server.address, &secured.authority.pem(), None);
    crate::eventually(async || match endpoint.connect().await {
        Ok(channel) => call(channel, None).await.is_ok(),
        Err(_) => false,
    })
    .await;
}

#[tokio::test]
async fn a_stalled_handshake_does_not_hold_the_shutdown_up() {
    let mut secured = secured(Options::default()).await;
    let mut stalled = TcpStream::connect(secured.server.address).await.unwrap();
    stalled.write_all(&[0x16, 3, 1]).await.unwrap();
    secured.works().await;
    secured.server.stop();
    secured.server.stopped().await.unwrap();
}
