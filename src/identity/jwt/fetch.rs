//! Asks an address for a key set: one request, with limits on time and size, and no redirects.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::source::MAX_BYTES;
use crate::tls;

/// How long an answer may take, from the connection to the last byte.
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// An http or https address, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url(Uri);

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
        // A password in it would end up in logs.
        let plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        match uri.scheme_str() {
            Some("http" | "https") if plain => Ok(Self(uri)),
            _ => Err("it must be http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH".into()),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Url {
    fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    fn host(&self) -> &str {
        self.0.host().unwrap_or_default().trim_matches(['[', ']'])
    }

    fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(if self.is_https() { 443 } else { 80 })
    }
}

/// Asks for what is there. The error says what is wrong.
pub(super) async fn fetch(url: &Url, ca: Option<&PathBuf>) -> Result<Bytes, String> {
    let fetched = timeout(FETCH_TIMEOUT, fetch_unbounded(url, ca)).await;
    fetched.unwrap_or_else(|_| Err(format!("no answer within {} s", FETCH_TIMEOUT.as_secs())))
}

async fn fetch_unbounded(url: &Url, ca: Option<&PathBuf>) -> Result<Bytes, String> {
    let stream = TcpStream::connect((url.host(), url.port())).await;
    let stream = stream.map_err(|error| format!("no connection: {error}"))?;
    if !url.is_https() {
        return get(url, stream).await;
    }
    let ca = ca.cloned();
    let roots =
        tokio::task::spawn_blocking(move || roots(ca)).await.expect("loading roots does not panic")?;
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(url.host().to_owned()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    get(url, stream.map_err(|error| format!("no TLS connection: {error}"))?).await
}

/// The authorities to trust.
fn roots(ca: Option<PathBuf>) -> Result<RootCertStore, String> {
    let certificates = match ca {
        Some(path) => tls::read_certificates(&path)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err("this system has no certificate authorities; name some in identity.jwt.jwks_ca".into());
    }
    Ok(roots)
}

async fn get<S>(url: &Url, stream: S) -> Result<Bytes, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let lost = |error: hyper::Error| format!("no answer: {error}");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let path = url.0.path_and_query().map_or("/", |path| path.as_str());
    let host = url.0.authority().map_or("", |authority| authority.as_str());
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("columba/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(lost)?;
    if answer.status() != StatusCode::OK {
        return Err(format!("the answer is {}", answer.status()));
    }
    let limit = usize::try_from(MAX_BYTES).unwrap_or(usize::MAX);
    let body = Limited::new(answer.into_body(), limit).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| format!("no whole answer: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_http_and_https_addresses() {
        for (text, host, port) in [
            ("http://idp:8080/keys", "idp", 8080),
            ("https://idp.example/keys?a=b", "idp.example", 443),
            ("http://[::1]/keys", "::1", 80),
        ] {
            let url: Url = text.parse().unwrap();
            assert_eq!((url.host(), url.port()), (host, port));
        }
        for bad in ["", "idp", "/keys", "ftp://idp/keys", "https://user:secret@idp/keys", "https:///keys"] {
            assert!(bad.parse::<Url>().is_err(), "{bad:?}");
        }
    }
}
