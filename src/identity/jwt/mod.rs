//! JWTs: tokens that somebody else has signed, checked with the keys that they publish.

mod fetch;
mod keys;
mod signatures;
mod source;

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode};
use moka::sync::Cache;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use self::keys::{Key, KeySet};
use self::source::Source;
use super::tokens::Digest;
use super::{MAX_GROUPS, Method, Principal, Refused, is_name};

pub use jsonwebtoken::Algorithm;

pub use self::fetch::Url;
pub use self::source::Location;

/// The algorithms that may be configured. None with a shared secret: whoever can check such a token
/// can make one.
pub const ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
/// Tokens whose check is remembered.
const REMEMBERED: u64 = 10_000;

/// Whose JWTs are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What `iss` must be.
    pub issuer: String,
    /// What `aud` must be, or contain.
    pub audience: String,
    /// The algorithms that may have signed it. Default: RS256 and ES256.
    pub algorithms: Vec<Algorithm>,
    /// Where the keys are.
    pub keys: Location,
    /// How far the issuer's clock may be off. At most 20 s; default: 10 s.
    pub leeway: Duration,
    /// The claim that names the principal. Default: sub.
    pub principal_claim: String,
    /// The claim that lists groups. Default: groups.
    pub groups_claim: String,
}

/// An algorithm of [`ALGORITHMS`].
#[must_use]
pub fn algorithm(name: &str) -> Option<Algorithm> {
    ALGORITHMS.contains(&name).then(|| Algorithm::from_str(name).ok()).flatten()
}

/// Whether a token begins as a JWT does.
pub(super) fn looks_like_one(token: &str) -> bool {
    Header::of(token).is_some()
}

/// What a token says about its signature. Read before anything of it is believed.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

impl Header {
    fn of(token: &str) -> Option<Self> {
        let (header, _) = token.split_once('.')?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()
    }
}

/// Checks JWTs.
pub(super) struct Jwt {
    settings: Settings,
    /// What is checked, except for the algorithm.
    validation: Validation,
    source: Arc<Source>,
    remembered: Cache<Digest, Arc<Verified>>,
}

/// A token that was found good.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) principal: Arc<Principal>,
    /// With the leeway.
    expires_at: SystemTime,
    key: Key,
}

impl Jwt {
    pub(super) fn open(settings: Settings) -> Result<Arc<Self>, String> {
        signatures::install();
        let mut validation = Validation::default();
        validation.set_audience(&[&settings.audience]);
        validation.set_issuer(&[&settings.issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss"]);
        validation.validate_nbf = true;
        validation.leeway = settings.leeway.as_secs();
        let source = Source::open(settings.keys.clone())?;
        Ok(Arc::new(Self { settings, validation, source, remembered: Cache::new(REMEMBERED) }))
    }

    pub(super) async fn follow(&self, stop: CancellationToken) {
        Arc::clone(&self.source).follow(stop).await;
    }

    pub(super) fn failed_reloads(&self) -> u64 {
        self.source.failures()
    }

    /// Checks a token, after asking for new keys if it is signed with one that is not known.
    pub(super) async fn verify(&self, token: &str) -> Result<Arc<Verified>, Refused> {
        let digest = super::tokens::digest(token);
        if let Some(verified) = self.remembered.get(&digest) {
            return self.check(&verified, SystemTime::now()).map(|()| verified);
        }
        let verified = match self.verify_with(token, self.source.keys().as_ref()) {
            Err(Refused::UnknownKey | Refused::NoKeys) if self.source.ask().await => {
                self.verify_with(token, self.source.keys().as_ref())
            }
            verified => verified,
        }?;
        let verified = Arc::new(verified);
        self.remembered.insert(digest, Arc::clone(&verified));
        Ok(verified)
    }

    /// Whether a token that was found good is good still.
    pub(super) fn check(&self, verified: &Verified, now: SystemTime) -> Result<(), Refused> {
        if now >= verified.expires_at {
            Err(Refused::Expired)
        } else if self.source.keys().is_some_and(|keys| keys.has(&verified.key)) {
            Ok(())
        } else {
            Err(Refused::Revoked)
        }
    }

    fn verify_with(&self, token: &str, keys: Option<&Arc<KeySet>>) -> Result<Verified, Refused> {
        let header = Header::of(token).ok_or(Refused::Malformed("the token is no JWT"))?;
        let algorithm = algorithm(&header.alg).filter(|one| self.settings.algorithms.contains(one));
        let algorithm = algorithm.ok_or_else(|| self.wrong_algorithm())?;
        if header.crit.is_some() {
            return Err(Refused::Malformed("its header asks for extensions that this server does not know"));
        }
        let keys = keys.ok_or(Refused::NoKeys)?;
        // The library takes several algorithms only if one key is for all of them.
        let validation = Validation { algorithms: vec![algorithm], ..self.validation.clone() };
        let mut refused = Refused::UnknownKey;
        for key in keys.find(header.kid.as_deref(), algorithm) {
            match decode::<Map<String, Value>>(token, key.decoding(), &validation) {
                Ok(token) => return self.verified(&token.claims, key),
                Err(error) => refused = self.refused(error.kind()),
            }
            if refused != Refused::Signature {
                break;
            }
        }
        Err(refused)
    }

    fn verified(&self, claims: &Map<String, Value>, key: &Key) -> Result<Verified, Refused> {
        let claim = &self.settings.principal_claim;
        let name = claims.get(claim).and_then(Value::as_str).filter(|name| is_name(name));
        let name = name.ok_or_else(|| Refused::Claim(claim.clone()))?.to_owned();
        let expires = claims.get("exp").and_then(Value::as_f64).unwrap_or_default();
        let lasts = Duration::try_from_secs_f64(expires).unwrap_or(Duration::MAX);
        let expires_at =
            lasts.checked_add(self.settings.leeway).and_then(|lasts| UNIX_EPOCH.checked_add(lasts));
        let principal = Principal { name, method: Method::Jwt, groups: self.groups(claims)? };
        Ok(Verified {
            principal: Arc::new(principal),
            // A time that no clock will show.
            expires_at: expires_at.unwrap_or(UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 4)),
            key: key.clone(),
        })
    }

    /// The groups of a token: a list of names, or one name, or none.
    fn groups(&self, claims: &Map<String, Value>) -> Result<Vec<String>, Refused> {
        let unusable = || Refused::Claim(self.settings.groups_claim.clone());
        let groups: Vec<&Value> = match claims.get(&self.settings.groups_claim) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(groups)) => groups.iter().collect(),
            Some(group) => vec![group],
        };
        if groups.len() > MAX_GROUPS {
            return Err(unusable());
        }
        let named = groups.into_iter().map(|group| group.as_str().filter(|group| is_name(group)));
        named.map(|group| group.map(str::to_owned).ok_or_else(unusable)).collect()
    }

    fn wrong_algorithm(&self) -> Refused {
        let names: Vec<_> = self.settings.algorithms.iter().map(|one| format!("{one:?}")).collect();
        Refused::Algorithm(names.join(", "))
    }

    /// Says the library's errors in our own terms.
    fn refused(&self, error: &ErrorKind) -> Refused {
        match error {
            ErrorKind::ExpiredSignature => Refused::Expired,
            ErrorKind::ImmatureSignature => Refused::NotYetValid,
            ErrorKind::InvalidAudience => Refused::Audience(self.settings.audience.clone()),
            ErrorKind::InvalidIssuer => Refused::Issuer(self.settings.issuer.clone()),
            ErrorKind::InvalidAlgorithm
            | ErrorKind::InvalidAlgorithmName
            | ErrorKind::UnsupportedAlgorithm => self.wrong_algorithm(),
            ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
                Refused::Claim(claim.clone())
            }
            ErrorKind::InvalidSignature | ErrorKind::Provider(_) => Refused::Signature,
            _ => Refused::Malformed("the token is no JWT"),
        }
    }
}
