//! Why a caller is not let in. Nothing here repeats what the caller has sent: it may be a secret.

use crate::model::Kind;

/// Why a caller is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No credentials.
    #[error("this server needs to know who calls; {}", missing(*token, *certificate))]
    Missing {
        /// A token would do.
        token: bool,
        /// A client certificate would do.
        certificate: bool,
    },
    /// The header or the token cannot be read.
    #[error("the authorization is malformed: {0}; send `authorization: Bearer TOKEN`")]
    Malformed(&'static str),
    /// A token, where only certificates count.
    #[error("this server takes no tokens; show a client certificate, and send no authorization")]
    TokensNotTaken,
    /// No such static token.
    #[error("the token is unknown; it may have been replaced: use the newest one")]
    UnknownToken,
    /// The static token was taken out of the file, or the signing key out of the key set.
    #[error("the token was revoked; use a new one, and connect again")]
    Revoked,
    /// After `exp`.
    #[error("the token has expired; get a new one, and connect again")]
    Expired,
    /// Before `nbf`.
    #[error("the token is not valid yet; check the clocks of its issuer and of this server")]
    NotYetValid,
    /// For somebody else.
    #[error("the token is for another audience; ask its issuer for one whose `aud` is {0:?}")]
    Audience(String),
    /// From somebody else.
    #[error("the token is from another issuer; this server takes those of {0:?}")]
    Issuer(String),
    /// Signed in a way that is not allowed, or not at all.
    #[error("the token is not signed with an algorithm that this server takes, which are {0}")]
    Algorithm(String),
    /// Signed with a key that is not in the key set.
    #[error("the token is signed with a key that its issuer does not publish; get a new one")]
    UnknownKey,
    /// The signature is wrong.
    #[error("the token's signature is wrong; get a new one from its issuer")]
    Signature,
    /// A claim is missing or cannot be used.
    #[error("the token has no usable claim {0:?}; have its issuer put one in")]
    Claim(String),
    /// The issuer's keys are not known yet.
    #[error("the keys of the tokens' issuer could not be loaded yet; retry later")]
    NoKeys,
    /// The certificate's time is over.
    #[error("the client certificate has expired; get a new one, and connect again")]
    CertificateExpired,
    /// The authority of the certificate is not trusted any more.
    #[error("the client certificate's authority is not trusted any more; get a new one, and connect again")]
    CertificateNotTrusted,
    /// Nobody is named.
    #[error(
        "the client certificate names nobody; issue one with a URI, DNS name or e-mail address among its \
         subject alternative names"
    )]
    NamelessCertificate,
}

fn missing(token: bool, certificate: bool) -> &'static str {
    match (token, certificate) {
        (true, true) => "send `authorization: Bearer TOKEN`, or show a client certificate",
        (false, true) => "show a client certificate",
        _ => "send `authorization: Bearer TOKEN`",
    }
}

impl Refused {
    /// The kind of trouble it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoKeys => Kind::Unavailable,
            _ => Kind::Unauthenticated,
        }
    }

    /// A name for programs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "MISSING_CREDENTIALS",
            Self::Malformed(_) => "MALFORMED_CREDENTIALS",
            Self::TokensNotTaken => "TOKENS_NOT_TAKEN",
            Self::UnknownToken => "UNKNOWN_TOKEN",
            Self::Revoked => "TOKEN_REVOKED",
            Self::Expired => "TOKEN_EXPIRED",
            Self::NotYetValid => "TOKEN_NOT_YET_VALID",
            Self::Audience(_) => "WRONG_AUDIENCE",
            Self::Issuer(_) => "WRONG_ISSUER",
            Self::Algorithm(_) => "WRONG_ALGORITHM",
            Self::UnknownKey => "UNKNOWN_KEY",
            Self::Signature => "BAD_SIGNATURE",
            Self::Claim(_) => "MISSING_CLAIM",
            Self::NoKeys => "KEYS_UNAVAILABLE",
            Self::CertificateExpired => "CERTIFICATE_EXPIRED",
            Self::CertificateNotTrusted => "CERTIFICATE_NOT_TRUSTED",
            Self::NamelessCertificate => "NAMELESS_CERTIFICATE",
        }
    }
}
