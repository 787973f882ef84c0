//! Reads certificates and keys, and checks all that can be checked before anybody relies on them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{Error, InconsistentKeys, RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{ClientCertificates, Settings, provider};
use crate::watched;

/// Largest file of certificates or of a key.
pub(super) const MAX_FILE_BYTES: u64 = 1 << 20;

/// The contents of the files.
#[derive(Clone, PartialEq)]
pub(super) struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// What the files say, ready for use.
pub(super) struct Loaded {
    pub(super) config: Arc<ServerConfig>,
    pub(super) client_verifier: Option<Arc<dyn ClientCertVerifier>>,
    pub(super) expires_at: SystemTime,
    /// Counts up with each load.
    pub(super) generation: u64,
    pub(super) files: Files,
}

impl Files {
    pub(super) fn read(settings: &Settings) -> Result<Self, String> {
        let read = |path: &Path| watched::read(path, MAX_FILE_BYTES);
        Ok(Self {
            certificate: read(&settings.certificate)?,
            key: read(&settings.key)?,
            client_ca: settings.client_ca.as_deref().map(read).transpose()?,
        })
    }

    /// Checks the contents and makes them ready for use.
    pub(super) fn load(&self, settings: &Settings, generation: u64) -> Result<Loaded, String> {
        let provider = provider();
        let (pair, expires_at) = self.pair(settings, &provider)?;
        let client_verifier = self.client_verifier(settings, &provider)?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be set up: {error}"))?;
        let config = match &client_verifier {
            Some(verifier) => config.with_client_cert_verifier(Arc::clone(verifier)),
            None => config.with_no_client_auth(),
        };
        let mut config = config.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
        config.alpn_protocols = vec![b"h2".to_vec()];
        if client_verifier.is_some() {
            // A resumed session would not look at the client's certificate again.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        let (config, files) = (Arc::new(config), self.clone());
        Ok(Loaded { config, client_verifier, expires_at, generation, files })
    }

    /// The certificate with its key, and when it expires.
    fn pair(
        &self,
        settings: &Settings,
        provider: &CryptoProvider,
    ) -> Result<(CertifiedKey, SystemTime), String> {
        let at = settings.certificate.display();
        let chain = certificates(&settings.certificate, &self.certificate)?;
        let expires_at = check_times(&settings.certificate, &chain[0], SystemTime::now())?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| {
            format!("{} holds no private key; give one in PEM that is not encrypted", settings.key.display())
        })?;
        let pair = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => format!(
                "the certificate in {at} and the key in {} do not belong together; give the pair that was \
                 issued together, the server's certificate first in its file",
                settings.key.display()
            ),
            error => format!("the certificate in {at} cannot be used: {error}"),
        })?;
        Ok((pair, expires_at))
    }

    fn client_verifier(
        &self,
        settings: &Settings,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
        let (Some(path), Some(bytes)) = (&settings.client_ca, &self.client_ca) else { return Ok(None) };
        let refused = |error: &dyn std::fmt::Display| {
            format!("{} cannot be trusted for client certificates: {error}", path.display())
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(path, bytes)? {
            roots.add(certificate).map_err(|error| refused(&error))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let builder = match settings.client_certificate {
            ClientCertificates::Required => builder,
            ClientCertificates::Optional => builder.allow_unauthenticated(),
        };
        builder.build().map(Some).map_err(|error| refused(&error))
    }
}

/// The certificates of a PEM file: at least one, and each one readable.
pub(super) fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let at = path.display();
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|error| format!("{at} is no PEM file: {error}"))?;
    if chain.is_empty() {
        return Err(format!("{at} holds no certificate; give one in PEM (-----BEGIN CERTIFICATE-----)"));
    }
    for (certificate, number) in chain.iter().zip(1..) {
        X509Certificate::from_der(certificate)
            .map_err(|error| format!("certificate {number} in {at} cannot be read: {error}"))?;
    }
    Ok(chain)
}

/// Checks that a certificate is valid now; returns when it expires.
fn check_times(path: &Path, certificate: &[u8], now: SystemTime) -> Result<SystemTime, String> {
    let at = path.display();
    let (from, until) = validity(certificate).ok_or_else(|| format!("{at} cannot be read"))?;
    let time = humantime::format_rfc3339_seconds;
    if now < from {
        return Err(format!(
            "the certificate in {at} is valid only from {}; check the clock, or issue another",
            time(from)
        ));
    }
    if now >= until {
        return Err(format!("the certificate in {at} expired at {}; issue another", time(until)));
    }
    Ok(until)
}

/// From when until when a certificate is valid.
pub(super) fn validity(certificate: &[u8]) -> Option<(SystemTime, SystemTime)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    Some((system_time(validity.not_before.timestamp()), system_time(validity.not_after.timestamp())))
}

/// Times before 1970 are as good as 1970.
fn system_time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
