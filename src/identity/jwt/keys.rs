//! The keys that an issuer publishes, as RFC 7517 writes them.

use std::sync::Arc;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// Most keys of a set.
const MAX_KEYS: usize = 100;
/// Most keys tried for a token that does not name its own.
const MAX_TRIED: usize = 10;

/// The keys that check signatures.
#[derive(Debug)]
pub(super) struct KeySet(Vec<Key>);

/// One of them; a handle that is cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Key(Arc<Content>);

#[derive(Debug)]
struct Content {
    jwk: Jwk,
    decoding: DecodingKey,
}

impl KeySet {
    /// Reads a key set. Keys that cannot check a signature are left out; the rest must be some.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(bytes)
            .map_err(|error| format!("it is no JSON Web Key Set ({{\"keys\": […]}}): {error}"))?;
        if set.keys.len() > MAX_KEYS {
            return Err(format!("it has {} keys, and at most {MAX_KEYS} are taken", set.keys.len()));
        }
        let keys: Vec<_> = set.keys.into_iter().filter_map(Key::parse).collect();
        if keys.is_empty() {
            return Err("it has no key that can check a signature".into());
        }
        Ok(Self(keys))
    }

    /// The keys that may have signed a token: the one that it names, or else every fitting one.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> impl Iterator<Item = &Key> {
        let named = move |key: &&Key| id.is_none() || key.0.jwk.common.key_id.as_deref() == id;
        self.0.iter().filter(named).filter(move |key| key.fits(algorithm)).take(MAX_TRIED)
    }

    /// Whether a key is among them still.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.0.iter().any(|one| Arc::ptr_eq(&one.0, &key.0) || one.0.jwk == key.0.jwk)
    }
}

impl Key {
    /// None for a key of a kind that is not known here, or for other uses.
    fn parse(key: serde_json::Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(key).ok()?;
        let signs = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
        let public = matches!(
            jwk.algorithm,
            AlgorithmParameters::RSA(_)
                | AlgorithmParameters::EllipticCurve(_)
                | AlgorithmParameters::OctetKeyPair(_)
        );
        let decoding = DecodingKey::from_jwk(&jwk).ok().filter(|_| signs && public)?;
        Some(Self(Arc::new(Content { jwk, decoding })))
    }

    pub(super) fn decoding(&self) -> &DecodingKey {
        &self.0.decoding
    }

    /// Whether it is made for an algorithm.
    fn fits(&self, algorithm: Algorithm) -> bool {
        use Algorithm as A;
        let kind = match &self.0.jwk.algorithm {
            AlgorithmParameters::RSA(_) => {
                matches!(algorithm, A::RS256 | A::RS384 | A::RS512 | A::PS256 | A::PS384 | A::PS512)
            }
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => algorithm == A::ES256,
                EllipticCurve::P384 => algorithm == A::ES384,
                _ => false,
            },
            AlgorithmParameters::OctetKeyPair(key) => {
                key.curve == EllipticCurve::Ed25519 && algorithm == A::EdDSA
            }
            _ => false,
        };
        let named = self.0.jwk.common.key_algorithm;
        kind && named.is_none_or(|named| named == KeyAlgorithm::from(algorithm))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P256: &str = r#"{"kty":"EC","crv":"P-256","kid":"a",
        "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

    fn set(keys: &str) -> Result<KeySet, String> {
        KeySet::parse(format!("{{\"keys\":[{keys}]}}").as_bytes())
    }

    #[test]
    fn keys_fit_their_own_algorithm_only() {
        let keys = set(P256).unwrap();
        assert_eq!(keys.find(Some("a"), Algorithm::ES256).count(), 1);
        assert_eq!(keys.find(None, Algorithm::ES256).count(), 1);
        assert_eq!(keys.find(Some("b"), Algorithm::ES256).count(), 0);
        for other in [Algorithm::ES384, Algorithm::RS256, Algorithm::HS256, Algorithm::EdDSA] {
            assert_eq!(keys.find(Some("a"), other).count(), 0, "{other:?}");
        }
    }

    #[test]
    fn what_cannot_check_a_signature_is_left_out() {
        let secret = r#"{"kty":"oct","k":"c2VjcmV0"}"#;
        let strange = r#"{"kty":"new","z":1}"#;
        let encrypts = P256.replace("\"kid\"", "\"use\":\"enc\",\"kid\"");
        assert_eq!(set(&[secret, strange, &encrypts, P256].join(",")).unwrap().0.len(), 1);
        for bad in [secret, strange, &encrypts, ""] {
            assert!(set(bad).unwrap_err().contains("no key"), "{bad}");
        }
        assert!(KeySet::parse(b"<html>").unwrap_err().contains("no JSON Web Key Set"));
        assert!(KeySet::parse(b"{}").is_err());
        assert!(set(&[P256; MAX_KEYS + 1].join(",")).unwrap_err().contains("101"));
    }

    #[test]
    fn a_key_that_is_published_again_is_the_same() {
        let (one, two) = (set(P256).unwrap(), set(P256).unwrap());
        let other = set(&P256.replace("\"a\"", "\"b\"")).unwrap();
        assert!(two.has(&one.0[0]) && !other.has(&one.0[0]));
    }
}
