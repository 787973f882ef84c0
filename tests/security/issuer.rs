//! An issuer of JWTs for tests, who signs what no good issuer would.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use columba::identity::Settings;
use columba::identity::jwt::{self, Algorithm, Location};
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};

pub const ISSUER: &str = "https://issuer.test";
pub const AUDIENCE: &str = "columba";

/// A key on the curve P-256, with its name.
pub struct EcKey {
    pub id: String,
    pair: EcdsaKeyPair,
}

impl EcKey {
    pub fn new(id: &str) -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
        Self { id: id.into(), pair }
    }

    pub fn public(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..]));
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "kid": self.id, "x": x, "y": y })
    }

    /// A good token, except for what is changed.
    pub fn token(&self, changes: &Value) -> String {
        self.sign(&json!({ "alg": "ES256", "typ": "JWT", "kid": self.id }), &claims(changes))
    }

    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", BASE64.encode(signature))
    }
}

/// An RSA key of which everybody knows the private part.
pub struct RsaKey(RsaKeyPair);

impl RsaKey {
    pub fn new() -> Self {
        Self(RsaKeyPair::from_pkcs8(include_bytes!("../data/issuer-rsa.pk8")).unwrap())
    }

    fn components(&self) -> (String, String) {
        let PublicKeyComponents::<Vec<u8>> { n, e } = self.0.public().into();
        (BASE64.encode(n), BASE64.encode(e))
    }

    pub fn public(&self) -> Value {
        let (n, e) = self.components();
        json!({ "kty": "RSA", "alg": "RS256", "use": "sig", "kid": "rsa", "n": n, "e": e })
    }

    pub fn token(&self) -> String {
        let message = message(&json!({ "alg": "RS256", "kid": "rsa" }), &claims(&json!({})));
        let mut signature = vec![0; self.0.public().modulus_len()];
        self.0.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", BASE64.encode(signature))
    }

    /// What a server would be taken in by that lets the token choose how a public key is used.
    pub fn token_with_public_key_as_secret(secret: &[u8]) -> String {
        let message = message(&json!({ "alg": "HS256", "kid": "rsa" }), &claims(&json!({})));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        format!("{message}.{}", BASE64.encode(ring::hmac::sign(&key, message.as_bytes())))
    }

    /// The forms in which the public key may be taken for a secret.
    pub fn public_bytes(&self) -> Vec<Vec<u8>> {
        let (n, _) = self.components();
        vec![
            self.0.public().as_ref().to_vec(),
            BASE64.decode(&n).unwrap(),
            n.into_bytes(),
            self.public().to_string().into_bytes(),
        ]
    }
}

pub fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()))
}

/// The claims of a good token, except for what is changed; null takes a claim out.
pub fn claims(changes: &Value) -> Value {
    let mut claims =
        json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "billing", "exp": now() + 600, "iat": now() });
    for (claim, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => _ = claims.as_object_mut().unwrap().remove(claim),
            value => claims[claim] = value.clone(),
        }
    }
    claims
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// Settings that take the tokens of this issuer.
pub fn settings(keys: Location, leeway: Duration) -> Settings {
    let jwt = jwt::Settings {
        issuer: ISSUER.into(),
        audience: AUDIENCE.into(),
        algorithms: vec![Algorithm::RS256, Algorithm::ES256],
        keys,
        leeway,
        principal_claim: "sub".into(),
        groups_claim: "groups".into(),
    };
    Settings { jwt: Some(jwt), recheck: Duration::from_millis(50), ..Settings::default() }
}

/// A key set in a file, which lives as long as the first of what is returned.
pub fn key_file(keys: &[Value]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    std::fs::write(&path, key_set(keys)).unwrap();
    (dir, path)
}
