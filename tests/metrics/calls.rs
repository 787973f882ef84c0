//! Calls and connections, and what is told of the process.

use std::time::{SystemTime, UNIX_EPOCH};

use columba::proto::v1::GetTopicRequest;
use tonic::Code;
use tonic::codegen::http::uri::PathAndQuery;

use crate::Server;

fn requests(method: &str, code: &str) -> String {
    format!("columba_grpc_requests_total{{method=\"columba.v1.{method}\",code=\"{code}\"}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_count_by_method_and_code() {
    let server = Server::start().await;
    server.create_topic("orders").await;
    for _ in 0..2 {
        server.publish("orders", &["a"]).await;
    }
    let missing = GetTopicRequest { topic: "nothing".into() };
    assert_eq!(server.topics().get_topic(missing).await.unwrap_err().code(), Code::NotFound);
    let scrape =
        server.until(|it| it.find(&requests("TopicService/GetTopic", "NOT_FOUND")) == Some(1.)).await;
    assert_eq!(scrape.value(&requests("PublisherService/Publish", "OK")), 2.);
    assert_eq!(scrape.value(&requests("TopicService/CreateTopic", "OK")), 1.);
    assert_eq!(scrape.value(&requests("TopicService/GetTopic", "OK")), 0.);
    let duration = "columba_grpc_request_duration_seconds";
    let publish = "{method=\"columba.v1.PublisherService/Publish\"}";
    assert_eq!(scrape.value(&format!("{duration}_count{publish}")), 2.);
    assert!(scrape.value(&format!("{duration}_sum{publish}")) > 0.);
    let stream = "{method=\"columba.v1.SubscriberService/Subscribe\"}";
    assert_eq!(scrape.find(&format!("{duration}_count{stream}")), None, "a stream lasts as long as it likes");
    assert_eq!(scrape.value("columba_grpc_connections"), 1.);
    assert_eq!(scrape.value("columba_grpc_connection_limit"), 10_000.);
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_that_are_made_up_count_together() {
    let server = Server::start().await;
    for path in ["/columba.v1.TopicService/Nothing", "/made.Up/Method"] {
        let mut client = tonic::client::Grpc::new(server.channel());
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let answer = client.unary(tonic::Request::new(()), PathAndQuery::from_static(path), codec).await;
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
    }
    let scrape = server.scrape().await;
    let unknown = "columba_grpc_requests_total{method=\"_other\",code=\"UNIMPLEMENTED\"}";
    assert_eq!(scrape.value(unknown), 2.);
    assert!(!scrape.series("columba_grpc_requests_total").keys().any(|series| series.contains("made")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_says_what_it_is_and_since_when() {
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let server = Server::start().await;
    let scrape = server.scrape().await;
    let build =
        format!("columba_build_info{{version=\"{}\",engine=\"embedded\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(scrape.value(&build), 1.);
    let started = scrape.value("columba_process_start_time_seconds");
    assert!(started >= before - 1. && started <= before + 60., "{started}");
    assert!(scrape.series("columba_tls_reloads_total").is_empty(), "there is no TLS");
}
