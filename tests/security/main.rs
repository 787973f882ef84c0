//! TLS, and who is let in.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]
#![allow(unreachable_pub, reason = "a test program is used by nobody")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/scrape.rs"]
mod scrape;

mod audit;
mod authority;
mod authorization;
mod certificates;
mod cli;
mod files;
mod greeting;
mod issuer;
mod jwks;
mod jwt;
mod matrix;
mod mutual;
mod streams;
mod swap;
mod tokens;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use columba::authorization::Authorizer;
use columba::identity::{Authenticator, Settings};
use columba::proto::v1::topic_service_client::TopicServiceClient;
use columba::proto::v1::{ListTopicsRequest, ListTopicsResponse};
use columba::server::Options;
use columba::tls::Tls;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use crate::authority::Pair;
use crate::common::{PATIENCE, TestServer};

/// A server that asks who calls.
async fn identifying(settings: Settings, tls: Option<Arc<Tls>>) -> TestServer {
    let authenticator = Authenticator::open(settings, tls.clone()).unwrap();
    TestServer::start_with(Options { tls, authenticator, ..Options::default() }).await
}

/// A server that asks who calls, and what they may do. The rules are in `rules.toml` in the directory.
async fn authorizing(settings: Settings, dir: &Path, rules: &str) -> TestServer {
    let path = dir.join("rules.toml");
    std::fs::write(&path, rules).unwrap();
    let authenticator = Authenticator::open(settings, None).unwrap();
    let authorizer = Some(Authorizer::open(path).unwrap());
    // Quick, so that silent streams say something.
    let heartbeat = Duration::from_millis(50);
    TestServer::start_with(Options { authenticator, authorizer, heartbeat, ..Options::default() }).await
}

/// How to connect to a server: which authorities to trust, and what to show.
fn endpoint(address: SocketAddr, ca: &str, client: Option<&Pair>) -> Endpoint {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name("localhost");
    if let Some(pair) = client {
        tls = tls.identity(Identity::from_pem(&pair.certificate, &pair.key));
    }
    Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap()
}

/// A call that every known caller may make.
async fn call(channel: Channel, authorization: Option<&str>) -> Result<ListTopicsResponse, Status> {
    let mut request = Request::new(ListTopicsRequest::default());
    if let Some(authorization) = authorization {
        request.metadata_mut().insert("authorization", authorization.parse().unwrap());
    }
    let answer = TopicServiceClient::new(channel).list_topics(request).await;
    answer.map(tonic::Response::into_inner)
}

/// The same with a token.
async fn call_with(server: &TestServer, token: &str) -> Result<ListTopicsResponse, Status> {
    call(server.channel(), Some(&format!("Bearer {token}"))).await
}

/// Waits for what has no event to wait for.
async fn eventually(what: impl AsyncFn() -> bool) {
    let wait = async {
        while !what().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it happens in time");
}
