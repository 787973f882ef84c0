//! Signatures checked with ring, which TLS uses too, so that the server has one cryptographic library.

use std::sync::Once;

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, new_error};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::signature::{self as with, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    verifier_factory: |algorithm, key| {
        let method = Method::of(*algorithm).ok_or_else(|| new_error(ErrorKind::UnsupportedAlgorithm))?;
        Ok(Box::new(Verifier { algorithm: *algorithm, method, key: key.clone() }))
    },
    key_utils: KeyUtils::new_unimplemented(),
};

/// Has the JWT library check signatures in this way. One that this process has chosen before stays.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| _ = PROVIDER.install_default());
}

/// How ring checks an algorithm's signatures.
enum Method {
    Rsa(&'static RsaParameters),
    Other(&'static dyn with::VerificationAlgorithm),
}

impl Method {
    fn of(algorithm: Algorithm) -> Option<Self> {
        Some(match algorithm {
            Algorithm::RS256 => Self::Rsa(&with::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::RS384 => Self::Rsa(&with::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::RS512 => Self::Rsa(&with::RSA_PKCS1_2048_8192_SHA512),
            Algorithm::PS256 => Self::Rsa(&with::RSA_PSS_2048_8192_SHA256),
            Algorithm::PS384 => Self::Rsa(&with::RSA_PSS_2048_8192_SHA384),
            Algorithm::PS512 => Self::Rsa(&with::RSA_PSS_2048_8192_SHA512),
            Algorithm::ES256 => Self::Other(&with::ECDSA_P256_SHA256_FIXED),
            Algorithm::ES384 => Self::Other(&with::ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDSA => Self::Other(&with::ED25519),
            // Shared secrets are never taken.
            _ => return None,
        })
    }
}

struct Verifier {
    algorithm: Algorithm,
    method: Method,
    key: DecodingKey,
}

impl signature::Verifier<Vec<u8>> for Verifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match (&self.method, self.key.kind()) {
            (Method::Rsa(parameters), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            (Method::Other(algorithm), DecodingKeyKind::SecretOrDer(key)) => {
                UnparsedPublicKey::new(*algorithm, key).verify(message, signature)
            }
            _ => return Err(signature::Error::new()),
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Verifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
