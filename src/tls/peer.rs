//! The certificate that a client has shown.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::load::validity;

/// A client's certificate, which the handshake has found good.
#[derive(Debug)]
pub struct ClientCertificate {
    /// The client's own first.
    chain: Vec<CertificateDer<'static>>,
    name: Option<String>,
    expires_at: SystemTime,
    /// The generation of authorities that has found it good last.
    verified: AtomicU64,
}

/// Why a certificate that was good is not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Untrusted {
    /// Its time is over.
    Expired,
    /// Its authority is not trusted any more.
    Authority,
}

/// What no generation is.
const NEVER: u64 = u64::MAX;

impl ClientCertificate {
    /// None for an empty chain.
    pub(crate) fn new(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let chain: Vec<_> = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let name = subject(chain.first()?);
        // The handshake has read it; what cannot be read anyway has expired.
        let expiries = chain.iter().map(|one| validity(one).map_or(UNIX_EPOCH, |(_, until)| until));
        let expires_at = expiries.min()?;
        Some(Self { chain, name, expires_at, verified: AtomicU64::new(NEVER) })
    }

    /// Whom it names: the first URI among its subject alternative names, or else the first DNS name,
    /// or else the first e-mail address. None if it has none of these.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Checks it against authorities; signatures only once for each generation of them.
    pub(super) fn verify(
        &self,
        authorities: Option<&dyn ClientCertVerifier>,
        generation: u64,
        now: SystemTime,
    ) -> Result<(), Untrusted> {
        if now >= self.expires_at {
            return Err(Untrusted::Expired);
        }
        if self.verified.load(Ordering::Relaxed) == generation {
            return Ok(());
        }
        let (own, issuers) = self.chain.split_first().ok_or(Untrusted::Authority)?;
        let since = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        let verified = authorities.map(|authorities| authorities.verify_client_cert(own, issuers, since));
        if !matches!(verified, Some(Ok(_))) {
            return Err(Untrusted::Authority);
        }
        self.verified.store(generation, Ordering::Relaxed);
        Ok(())
    }
}

/// The name in a certificate that is its holder's principal.
fn subject(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    let uri = names.iter().find_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None });
    let dns =
        names.iter().find_map(|name| if let GeneralName::DNSName(dns) = name { Some(*dns) } else { None });
    let mail = names
        .iter()
        .find_map(|name| if let GeneralName::RFC822Name(mail) = name { Some(*mail) } else { None });
    uri.or(dns).or(mail).map(str::to_owned)
}
