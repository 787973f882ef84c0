//! Client certificates: who they name, and when they are not trusted any more.

use columba::identity::Settings;
use columba::proto::v1::WatchTopicsRequest;
use columba::proto::v1::topic_service_client::TopicServiceClient;
use columba::tls::{ClientCertificates, Tls};
use std::time::Duration;
use tonic::Code;

use crate::authority::{Authority, Pair, dns, mail, uri};
use crate::common::{assert_refused, within};
use crate::files::Files;
use crate::{call, endpoint, identifying};

fn quick() -> Settings {
    Settings { recheck: Duration::from_millis(50), ..Settings::default() }
}

#[tokio::test]
async fn a_certificate_is_required() {
    let (authority, clients) = (Authority::new("root"), Authority::new("clients"));
    let files = Files::tls(&authority.server(), &clients.pem());
    let tls = Tls::open(files.mutual(ClientCertificates::Required)).unwrap();
    let server = identifying(Settings::default(), Some(tls)).await;
    let to = |pair| endpoint(server.address, &authority.pem(), pair);

    let good = clients.client(&[uri("spiffe://test/a")]);
    within(call(to(Some(&good)).connect().await.unwrap(), None)).await.unwrap();
    let foreign = Authority::new("strangers").client(&[uri("spiffe://test/a")]);
    for bad in [None, Some(&foreign)] {
        // With TLS 1.3 the client learns that it was refused only when it reads.
        let refused = match within(to(bad).connect()).await {
            Ok(channel) => within(call(channel, None)).await.is_err(),
            Err(_) => true,
        };
        assert!(refused);
    }
}

#[tokio::test]
async fn a_certificate_names_somebody_or_is_refused() {
    let (authority, clients) = (Authority::new("root"), Authority::new("clients"));
    let files = Files::tls(&authority.server(), &clients.pem());
    let tls = Tls::open(files.mutual(ClientCertificates::Optional)).unwrap();
    let server = identifying(Settings::default(), Some(tls)).await;
    let connect =
        async |pair: Option<&Pair>| endpoint(server.address, &authority.pem(), pair).connect().await.unwrap();

    for names in [[uri("spiffe://test/a")], [dns("a.test")], [mail("a@test")]] {
        let pair = clients.client(&names);
        within(call(connect(Some(&pair)).await, None)).await.unwrap();
    }
    let nobody = clients.client(&[]);
    let refused = within(call(connect(Some(&nobody)).await, None)).await;
    assert_refused(refused, Code::Unauthenticated, "NAMELESS_CERTIFICATE");
    let refused = within(call(connect(None).await, None)).await;
    let status = assert_refused(refused, Code::Unauthenticated, "MISSING_CREDENTIALS");
    assert!(status.message().contains("client certificate"), "{status:?}");
    let refused = within(call(connect(None).await, Some("Bearer something"))).await;
    assert_refused(refused, Code::Unauthenticated, "TOKENS_NOT_TAKEN");
}

#[tokio::test]
async fn streams_and_calls_end_when_their_authority_is_replaced() {
    let (authority, clients) = (Authority::new("root"), Authority::new("clients"));
    let pair = authority.server();
    let mut files = Files::tls(&pair, &clients.pem());
    let tls = Tls::open(files.mutual(ClientCertificates::Required)).unwrap();
    let server = identifying(quick(), Some(tls.clone())).await;
    let client = clients.client(&[uri("spiffe://test/a")]);
    let channel = endpoint(server.address, &authority.pem(), Some(&client)).connect().await.unwrap();
    let mut topics = TopicServiceClient::new(channel.clone());
    let mut watched = topics.watch_topics(WatchTopicsRequest::default()).await.unwrap().into_inner();

    let others = Authority::new("others");
    files.replace_tls(&pair, &others.pem());
    let ended = within(async {
        while watched.message().await?.is_some() {}
        Ok::<_, tonic::Status>(())
    })
    .await;
    assert_refused(ended, Code::Unauthenticated, "CERTIFICATE_NOT_TRUSTED");
    let refused = within(call(channel, None)).await;
    assert_refused(refused, Code::Unauthenticated, "CERTIFICATE_NOT_TRUSTED");
    let other = others.client(&[uri("spiffe://test/b")]);
    let channel = endpoint(server.address, &authority.pem(), Some(&other)).connect().await.unwrap();
    within(call(channel, None)).await.unwrap();
}

#[tokio::test]
async fn a_stream_ends_when_its_certificate_expires() {
    let (authority, clients) = (Authority::new("root"), Authority::new("clients"));
    let files = Files::tls(&authority.server(), &clients.pem());
    let tls = Tls::open(files.mutual(ClientCertificates::Required)).unwrap();
    let server = identifying(quick(), Some(tls)).await;
    let client = clients.client_until(&[uri("spiffe://test/a")], 3);
    let channel = endpoint(server.address, &authority.pem(), Some(&client)).connect().await.unwrap();
    let mut topics = TopicServiceClient::new(channel);
    let mut watched = topics.watch_topics(WatchTopicsRequest::default()).await.unwrap().into_inner();
    let ended = within(async {
        while watched.message().await?.is_some() {}
        Ok::<_, tonic::Status>(())
    })
    .await;
    assert_refused(ended, Code::Unauthenticated, "CERTIFICATE_EXPIRED");
}
