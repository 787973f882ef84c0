//! Who calls: client certificates, static tokens and JWTs, each of which names a [`Principal`].
//!
//! What a principal may do is not decided here.

pub mod jwt;
mod refused;
mod tokens;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

pub use self::refused::Refused;
pub use self::tokens::{MIN_TOKEN_BYTES, hash};

use self::jwt::Jwt;
use self::tokens::{Digest, Tokens};
use crate::tls::{ClientCertificate, Tls, Untrusted};

/// Longest token taken, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 << 10;
/// Longest name of a principal or a group, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// Most groups of a principal.
pub const MAX_GROUPS: usize = 100;
/// How often open streams are checked for expiry and revocation. With the leeway of clocks and the
/// watching of files it stays below the 30 s within which streams are to end.
const RECHECK: Duration = Duration::from_secs(5);

/// Somebody who has shown who they are. Names from certificates, tokens and JWTs share one space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// 1 to 255 bytes without control characters.
    pub name: String,
    /// What showed it.
    pub method: Method,
    /// The groups that the token or JWT names. At most 100.
    pub groups: Vec<String>,
}

/// How a principal has shown who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A client certificate.
    Certificate,
    /// A token from the tokens file.
    Token,
    /// A token signed by the issuer.
    Jwt,
}

/// Which tokens are taken, and who may call without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The file of static tokens' hashes.
    pub tokens: Option<PathBuf>,
    /// Whose JWTs are taken.
    pub jwt: Option<jwt::Settings>,
    /// Health checks need no identity. Default: true.
    pub open_health: bool,
    /// Server reflection needs no identity. Default: false.
    pub open_reflection: bool,
    /// How often open streams are checked. Default: 5 s.
    pub recheck: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { tokens: None, jwt: None, open_health: true, open_reflection: false, recheck: RECHECK }
    }
}

/// Decides who calls.
pub struct Authenticator {
    settings: Settings,
    tls: Option<Arc<Tls>>,
    tokens: Option<Arc<Tokens>>,
    jwt: Option<Arc<Jwt>>,
}

/// A caller that was let in, and what for.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) principal: Arc<Principal>,
    proof: Proof,
}

#[derive(Debug, Clone)]
enum Proof {
    Certificate(Arc<ClientCertificate>),
    Token(Digest),
    Jwt(Arc<jwt::Verified>),
}

impl Authenticator {
    /// Reads and checks the files. `tls` counts if it asks clients for certificates. The errors say
    /// what is wrong with each file, and what to do. None if nothing identifies a caller.
    pub fn open(settings: Settings, tls: Option<Arc<Tls>>) -> Result<Option<Arc<Self>>, Vec<String>> {
        let tls = tls.filter(|tls| tls.asks_clients());
        let tokens = settings.tokens.clone().map(Tokens::open).transpose();
        let jwt = settings.jwt.clone().map(Jwt::open).transpose();
        match (tokens, jwt) {
            (Ok(None), Ok(None)) if tls.is_none() => Ok(None),
            (Ok(tokens), Ok(jwt)) => Ok(Some(Arc::new(Self { settings, tls, tokens, jwt }))),
            (tokens, jwt) => Err(tokens.err().into_iter().chain(jwt.err()).collect()),
        }
    }

    /// The settings.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes up new files and keys until `stop`.
    pub(crate) async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let tokens = async {
            if let Some(tokens) = &self.tokens {
                Arc::clone(tokens).follow(stop.clone()).await;
            }
        };
        let keys = async {
            if let Some(jwt) = &self.jwt {
                jwt.follow(stop.clone()).await;
            }
        };
        tokio::join!(tokens, keys);
    }

    /// How often a new tokens file or new JWT keys could not be taken up, and those before were kept.
    #[must_use]
    pub fn failed_reloads(&self) -> u64 {
        self.tokens.as_ref().map_or(0, |tokens| tokens.failed_reloads())
            + self.jwt.as_ref().map_or(0, |jwt| jwt.failed_reloads())
    }

    /// Who calls. A token says more than a certificate, which may be a proxy's.
    pub(crate) async fn authenticate(
        &self,
        token: Option<&str>,
        certificate: Option<&Arc<ClientCertificate>>,
    ) -> Result<Session, Refused> {
        match (token, certificate.filter(|_| self.tls.is_some())) {
            (Some(token), _) => self.authenticate_token(token).await,
            (None, Some(certificate)) => self.authenticate_certificate(certificate),
            (None, None) => Err(Refused::Missing {
                token: self.tokens.is_some() || self.jwt.is_some(),
                certificate: self.tls.is_some(),
            }),
        }
    }

    async fn authenticate_token(&self, token: &str) -> Result<Session, Refused> {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Err(Refused::Malformed("its length is not from 1 to 8192 bytes"));
        }
        if let Some((digest, principal)) = self.tokens.as_ref().and_then(|tokens| tokens.find(token)) {
            return Ok(Session { principal, proof: Proof::Token(digest) });
        }
        match &self.jwt {
            Some(jwt) if jwt::looks_like_one(token) || self.tokens.is_none() => {
                let verified = jwt.verify(token).await?;
                Ok(Session { principal: Arc::clone(&verified.principal), proof: Proof::Jwt(verified) })
            }
            _ if self.tokens.is_some() => Err(Refused::UnknownToken),
            _ => Err(Refused::TokensNotTaken),
        }
    }

    fn authenticate_certificate(&self, certificate: &Arc<ClientCertificate>) -> Result<Session, Refused> {
        let name = certificate.name().filter(|name| is_name(name)).ok_or(Refused::NamelessCertificate)?;
        let principal = Principal { name: name.to_owned(), method: Method::Certificate, groups: Vec::new() };
        let proof = Proof::Certificate(Arc::clone(certificate));
        let session = Session { principal: Arc::new(principal), proof };
        self.check(&session, SystemTime::now()).map(|()| session)
    }

    /// Whether a caller who was let in would be let in still.
    pub(crate) fn check(&self, session: &Session, now: SystemTime) -> Result<(), Refused> {
        match &session.proof {
            Proof::Certificate(certificate) => {
                let tls = self.tls.as_ref().ok_or(Refused::CertificateNotTrusted)?;
                tls.verify(certificate, now).map_err(|untrusted| match untrusted {
                    Untrusted::Expired => Refused::CertificateExpired,
                    Untrusted::Authority => Refused::CertificateNotTrusted,
                })
            }
            Proof::Token(digest) => match &self.tokens {
                // Its holder may have been given to somebody else.
                Some(tokens) if tokens.holder(digest).is_some_and(|now| now == session.principal) => Ok(()),
                _ => Err(Refused::Revoked),
            },
            Proof::Jwt(verified) => match &self.jwt {
                Some(jwt) => jwt.check(verified, now),
                None => Err(Refused::Revoked),
            },
        }
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Whether a text can name a principal or a group.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}
