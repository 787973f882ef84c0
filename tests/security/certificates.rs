//! The server's own certificate: what is refused at the start, and what while it runs.

use std::time::UNIX_EPOCH;

use columba::server::Options;
use columba::tls::{ClientCertificates, Tls};

use crate::authority::{Authority, Pair};
use crate::common::{TestServer, within};
use crate::files::Files;
use crate::scrape::Scrape;
use crate::{call, endpoint, eventually};

#[tokio::test]
async fn calls_go_through_tls() {
    let authority = Authority::new("root");
    let files = Files::tls(&authority.server(), "");
    let tls = Some(Tls::open(files.server_only()).unwrap());
    let server = TestServer::start_with(Options { tls, ..Options::default() }).await;
    let channel = within(endpoint(server.address, &authority.pem(), None).connect()).await.unwrap();
    within(call(channel, None)).await.unwrap();
    let stranger = Authority::new("stranger").pem();
    assert!(within(endpoint(server.address, &stranger, None).connect()).await.is_err());
}

#[test]
fn files_that_cannot_be_used_are_refused_with_the_reason() {
    let authority = Authority::new("root");
    let (pair, other) = (authority.server(), authority.server());
    let with = |certificate: &str, key: &str| Pair { certificate: certificate.into(), key: key.into() };
    let garbage = "-----BEGIN CERTIFICATE-----\nZ2FyYmFnZQ==\n-----END CERTIFICATE-----\n";
    for (pair, reason) in [
        (with(&pair.certificate, &other.key), "do not belong together"),
        (with(&pair.key, &pair.key), "holds no certificate"),
        (with(&pair.certificate, &pair.certificate), "holds no private key"),
        (with("", &pair.key), "holds no certificate"),
        (with(garbage, &pair.key), "certificate 1 in"),
        (with(&format!("{}{garbage}", pair.certificate), &pair.key), "certificate 2 in"),
        (authority.expired_server(), "expired at 2020-02-02"),
        (authority.early_server(), "valid only from 3026-02-02"),
    ] {
        let files = Files::tls(&pair, "");
        let problem = Tls::open(files.server_only()).unwrap_err();
        assert!(problem.contains(reason), "{reason:?} in {problem}");
        assert!(problem.contains("tls.crt") || problem.contains("tls.key"), "{problem}");
    }
    let files = Files::tls(&pair, "nothing");
    let problem = Tls::open(files.mutual(ClientCertificates::Required)).unwrap_err();
    assert!(problem.contains("ca.crt"), "{problem}");
    let mut missing = files.server_only();
    missing.key = files.path("none");
    assert!(Tls::open(missing).unwrap_err().contains("none"));
}

#[tokio::test]
#[expect(clippy::float_cmp, reason = "what is counted is whole")]
async fn a_bad_pair_keeps_the_one_before() {
    let authority = Authority::new("root");
    let (pair, next) = (authority.server(), authority.server());
    let mut files = Files::tls(&pair, "");
    let tls = Tls::open(files.server_only()).unwrap();
    let options = Options { tls: Some(tls.clone()), ..Options::default() };
    let server = TestServer::start_with(options).await;
    let works = async || {
        let channel = endpoint(server.address, &authority.pem(), None).connect().await.unwrap();
        call(channel, None).await.unwrap();
    };
    for (number, bad) in [
        Pair { certificate: next.certificate.clone(), key: pair.key.clone() },
        Pair { certificate: String::new(), key: String::new() },
        authority.expired_server(),
    ]
    .into_iter()
    .enumerate()
    {
        files.replace_tls(&bad, "");
        eventually(async || tls.failed_reloads() == number as u64 + 1).await;
        within(works()).await;
    }
    assert_eq!(tls.reloads(), 0);
    files.replace_tls(&next, "");
    eventually(async || tls.reloads() == 1).await;
    within(works()).await;
    let scrape = Scrape::take(server.admin).await;
    assert_eq!(scrape.value("columba_tls_failed_reloads_total"), 3.);
    assert_eq!(scrape.value("columba_tls_reloads_total"), 1.);
    let expires = tls.expires_at().duration_since(UNIX_EPOCH).unwrap();
    assert_eq!(scrape.value("columba_tls_certificate_expiry_time_seconds"), expires.as_secs_f64());
}
