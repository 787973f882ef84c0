//! JWTs: every way in which one can be wrong.

use std::time::Duration;

use columba::identity::Authenticator;
use columba::identity::jwt::Location;
use serde_json::{Value, json};
use tonic::Code;

use crate::common::{TestServer, assert_refused, within};
use crate::issuer::{EcKey, RsaKey, claims, key_file, key_set, message, now, settings};
use crate::{call, call_with, eventually, identifying};

const LEEWAY: Duration = Duration::from_secs(10);

async fn server(keys: &[Value]) -> (tempfile::TempDir, TestServer) {
    let (dir, path) = key_file(keys);
    let server = identifying(settings(Location::File(path), LEEWAY), None).await;
    (dir, server)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, tonic::Status>, reason: &str, token: &str) {
    let status = assert_refused(answer, Code::Unauthenticated, reason);
    assert!(!status.message().contains(token), "the token is repeated: {status:?}");
}

#[tokio::test]
async fn good_tokens_are_taken() {
    let (ec, rsa) = (EcKey::new("ec"), RsaKey::new());
    let (_dir, server) = server(&[ec.public(), rsa.public()]).await;
    let without_key_id = ec.sign(&json!({ "alg": "ES256" }), &claims(&json!({})));
    for token in [
        ec.token(&json!({})),
        rsa.token(),
        without_key_id,
        ec.token(&json!({ "aud": ["other", "columba"] })),
        ec.token(&json!({ "groups": ["a", "b"] })),
        ec.token(&json!({ "nbf": now() + 5 })),
        ec.token(&json!({ "exp": now() - 5 })),
        ec.token(&json!({ "exp": u64::MAX })),
        ec.token(&json!({ "exp": 1e18 })),
    ] {
        // The second time from memory.
        for _ in 0..2 {
            within(call_with(&server, &token)).await.unwrap();
        }
    }
    within(call(server.channel(), Some(&format!("bearer {}", ec.token(&json!({})))))).await.unwrap();
}

#[tokio::test]
async fn bad_claims_are_refused() {
    let key = EcKey::new("ec");
    let (_dir, server) = server(&[key.public()]).await;
    for (changes, reason) in [
        (json!({ "exp": now() - 11 }), "TOKEN_EXPIRED"),
        (json!({ "exp": 0 }), "TOKEN_EXPIRED"),
        (json!({ "exp": 1e300 }), "MISSING_CLAIM"),
        (json!({ "exp": -1 }), "MISSING_CLAIM"),
        (json!({ "nbf": now() + 60 }), "TOKEN_NOT_YET_VALID"),
        (json!({ "aud": "other" }), "WRONG_AUDIENCE"),
        (json!({ "aud": ["other", "others"] }), "WRONG_AUDIENCE"),
        (json!({ "iss": "https://stranger.test" }), "WRONG_ISSUER"),
        (json!({ "exp": null }), "MISSING_CLAIM"),
        (json!({ "aud": null }), "MISSING_CLAIM"),
        (json!({ "iss": null }), "MISSING_CLAIM"),
        (json!({ "sub": null }), "MISSING_CLAIM"),
        (json!({ "sub": "" }), "MISSING_CLAIM"),
        (json!({ "sub": "line\nbreak" }), "MISSING_CLAIM"),
        (json!({ "sub": "long".repeat(64) }), "MISSING_CLAIM"),
        (json!({ "exp": "tomorrow" }), "MISSING_CLAIM"),
        (json!({ "nbf": "yesterday" }), "MISSING_CLAIM"),
        (json!({ "groups": [1] }), "MISSING_CLAIM"),
        (json!({ "groups": vec!["group"; 101] }), "MISSING_CLAIM"),
    ] {
        let token = key.token(&changes);
        for _ in 0..2 {
            refused(within(call_with(&server, &token)).await, reason, &token);
        }
    }
}

#[tokio::test]
async fn bad_signatures_are_refused() {
    let (key, rsa) = (EcKey::new("ec"), RsaKey::new());
    let (_dir, server) = server(&[key.public(), rsa.public()]).await;
    let good = key.token(&json!({}));
    let (body, signature) = good.rsplit_once('.').unwrap();
    let none = |alg: &str| message(&json!({ "alg": alg }), &claims(&json!({}))) + ".";
    let other = EcKey::new("ec").token(&json!({ "sub": "admin" }));
    let (other_body, _) = other.rsplit_once('.').unwrap();
    let es256_with = |kid: &str| key.sign(&json!({ "alg": "ES256", "kid": kid }), &claims(&json!({})));
    let mut faults = vec![
        (none("none"), "WRONG_ALGORITHM"),
        (none("NONE"), "WRONG_ALGORITHM"),
        (none("HS256"), "WRONG_ALGORITHM"),
        (none("ES384"), "WRONG_ALGORITHM"),
        (none("ES256"), "BAD_SIGNATURE"),
        (format!("{body}."), "BAD_SIGNATURE"),
        (format!("{other_body}.{signature}"), "BAD_SIGNATURE"),
        (other.clone(), "BAD_SIGNATURE"),
        (EcKey::new("new").token(&json!({})), "UNKNOWN_KEY"),
        (es256_with("unknown"), "UNKNOWN_KEY"),
        // A key of another kind than the algorithm's.
        (es256_with("rsa"), "UNKNOWN_KEY"),
        (key.sign(&json!({ "alg": "RS256", "kid": "rsa" }), &claims(&json!({}))), "BAD_SIGNATURE"),
        (key.sign(&json!({ "alg": "ES256", "crit": ["b64"] }), &claims(&json!({}))), "MALFORMED_CREDENTIALS"),
    ];
    faults.extend(
        rsa.public_bytes()
            .iter()
            .map(|secret| (RsaKey::token_with_public_key_as_secret(secret), "WRONG_ALGORITHM")),
    );
    for (token, reason) in faults {
        refused(within(call_with(&server, &token)).await, reason, &token);
    }
    within(call_with(&server, &good)).await.unwrap();
}

#[tokio::test]
async fn garbage_is_refused() {
    let key = EcKey::new("ec");
    let (_dir, server) = server(&[key.public()]).await;
    let good = key.token(&json!({}));
    let payload = key.sign(&json!({ "alg": "ES256", "kid": "ec" }), &json!("no object"));
    for header in [
        "Bearer".to_owned(),
        "Bearer a".to_owned(),
        "Bearer a.b.c".to_owned(),
        "Bearer ...".to_owned(),
        format!("Bearer {good}.more"),
        format!("Bearer {payload}"),
        format!("Bearer {}", "x".repeat(8193)),
        format!("Basic {good}"),
        good.clone(),
        String::new(),
    ] {
        let status = within(call(server.channel(), Some(&header))).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{header}: {status:?}");
    }
    refused(within(call(server.channel(), None)).await, "MISSING_CREDENTIALS", "Bearer x");
}

#[tokio::test]
async fn a_key_file_is_watched() {
    let (old, new) = (EcKey::new("old"), EcKey::new("new"));
    let (dir, server) = server(&[old.public()]).await;
    let write = |content: &str| {
        std::fs::write(dir.path().join("next"), content).unwrap();
        std::fs::rename(dir.path().join("next"), dir.path().join("jwks.json")).unwrap();
    };
    let token = new.token(&json!({}));
    refused(within(call_with(&server, &token)).await, "UNKNOWN_KEY", &token);
    write(&key_set(&[old.public(), new.public()]));
    eventually(async || call_with(&server, &token).await.is_ok()).await;
    let former = old.token(&json!({}));
    within(call_with(&server, &former)).await.unwrap();
    // A key that is taken out revokes what it has signed.
    write(&key_set(&[new.public()]));
    eventually(async || call_with(&server, &former).await.is_err()).await;
    refused(within(call_with(&server, &former)).await, "TOKEN_REVOKED", &former);
    within(call_with(&server, &token)).await.unwrap();
}

#[test]
fn a_key_file_must_be_good_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    for content in ["", "<html>", "{}", "{\"keys\":[]}"] {
        std::fs::write(&path, content).unwrap();
        let problems = Authenticator::open(settings(Location::File(path.clone()), LEEWAY), None).unwrap_err();
        assert!(problems[0].contains("jwks.json"), "{problems:?}");
    }
}
