//! TLS: which certificate the server shows, whose client certificates it trusts, and how both are
//! replaced while it runs.

mod load;
mod peer;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

pub use self::peer::ClientCertificate;
pub(crate) use self::peer::Untrusted;

use self::load::{Files, Loaded};
use crate::watched::Watch;

/// Where the files are, and whether clients must show a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The server's certificate in PEM, the certificates of its issuers after it.
    pub certificate: PathBuf,
    /// Its private key in PEM, not encrypted.
    pub key: PathBuf,
    /// The authorities in PEM whose client certificates are trusted; none to ask for no certificate.
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate may connect, to identify itself in another way.
    pub client_certificate: ClientCertificates,
}

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Connections without one are refused.
    #[default]
    Required,
    /// Connections without one are taken; their calls need a token.
    Optional,
}

/// The TLS that new connections get. One that has been set up keeps what it has.
pub struct Tls {
    settings: Settings,
    current: ArcSwap<Loaded>,
    reloads: AtomicU64,
    failures: AtomicU64,
}

impl Tls {
    /// Reads and checks the files. The error says what is wrong with them, and what to do.
    pub fn open(settings: Settings) -> Result<Arc<Self>, String> {
        let files = Files::read(&settings)?;
        let current = ArcSwap::from_pointee(files.load(&settings, 0)?);
        Ok(Arc::new(Self { settings, current, reloads: AtomicU64::new(0), failures: AtomicU64::new(0) }))
    }

    /// What the next handshake uses.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().config)
    }

    /// Whether clients are asked for a certificate.
    pub(crate) fn asks_clients(&self) -> bool {
        self.settings.client_ca.is_some()
    }

    /// When the server's certificate expires.
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        self.current.load().expires_at
    }

    /// How often the files were replaced by good ones.
    #[must_use]
    pub fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Relaxed)
    }

    /// How often the files were replaced by bad ones, and those before were kept.
    #[must_use]
    pub fn failed_reloads(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Whether a client's certificate is trusted as the authorities are now.
    pub(crate) fn verify(&self, certificate: &ClientCertificate, now: SystemTime) -> Result<(), Untrusted> {
        let current = self.current.load();
        certificate.verify(current.client_verifier.as_deref(), current.generation, now)
    }

    /// Takes up new files until `stop`.
    pub(crate) async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let Settings { certificate, key, client_ca, .. } = &self.settings;
        let watch = Watch::new([certificate, key].into_iter().chain(client_ca));
        let mut failed: Option<Failed> = None;
        while stop.run_until_cancelled(watch.changed()).await.is_some() {
            let tls = Arc::clone(&self);
            let reload = move || tls.reload(failed.as_ref());
            failed = tokio::task::spawn_blocking(reload).await.expect("reloading does not panic");
        }
    }

    /// Loads the files if they changed. What failed is returned, and told once.
    fn reload(&self, failed: Option<&Failed>) -> Option<Failed> {
        let current = self.current.load();
        let files = Files::read(&self.settings);
        if files.as_ref().is_ok_and(|files| *files == current.files) {
            return None;
        }
        let generation = current.generation + 1;
        let loaded =
            files.as_ref().map_err(Clone::clone).and_then(|files| files.load(&self.settings, generation));
        match loaded {
            Ok(loaded) => {
                self.current.store(Arc::new(loaded));
                self.reloads.fetch_add(1, Ordering::Relaxed);
                tracing::info!(
                    expires_at = %humantime::format_rfc3339_seconds(self.expires_at()),
                    "new TLS certificates"
                );
                None
            }
            Err(problem) => {
                let now_failed = Failed { files: files.ok(), problem };
                if failed != Some(&now_failed) {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::error!("keeping the TLS certificates in use: {}", now_failed.problem);
                }
                Some(now_failed)
            }
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Files that could not be taken up.
#[derive(PartialEq)]
struct Failed {
    files: Option<Files>,
    problem: String,
}

/// The one provider of cryptography; docs/decisions/016 says why this one.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificates of a PEM file: at least one, and each one readable.
pub(crate) fn read_certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, String> {
    load::certificates(path, &crate::watched::read(path, load::MAX_FILE_BYTES)?)
}
