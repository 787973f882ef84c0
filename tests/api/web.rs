//! Calls by gRPC-Web over HTTP/1.1, as browsers make them.

use bytes::{BufMut, Bytes, BytesMut};
use columba::model::Origins;
use columba::proto::v1::{CreateTopicRequest, GetTopicRequest, GetTopicResponse, Topic};
use columba::server::Options;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::TcpStream;

use crate::common::{TestServer, within};

const PAGE: &str = "https://app.example.com";
const CREATE: &str = "/columba.v1.TopicService/CreateTopic";
const GET: &str = "/columba.v1.TopicService/GetTopic";

async fn server(web: Option<Origins>) -> TestServer {
    TestServer::start_with(Options { web, ..Options::default() }).await
}

fn only_the_page() -> Origins {
    Origins::Only(vec![PAGE.to_owned()])
}

/// One request over a connection of its own; `None` if there is no answer.
async fn send(server: &TestServer, request: Request<Full<Bytes>>) -> Option<Response<Bytes>> {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (parts, body) = within(client.send_request(request)).await.ok()?.into_parts();
    let body = within(body.collect()).await.unwrap().to_bytes();
    Some(Response::from_parts(parts, body))
}

fn call(path: &str, origin: Option<&str>, message: &impl Message) -> Request<Full<Bytes>> {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut body).unwrap();
    let mut request = Request::post(path).header("host", "columba").header("x-grpc-web", "1");
    request = request.header("content-type", "application/grpc-web+proto");
    if let Some(origin) = origin {
        request = request.header("origin", origin);
    }
    request.body(Full::new(body.freeze())).unwrap()
}

/// What browsers ask before a call.
fn preflight(origin: &str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(Method::OPTIONS).uri(CREATE).header("host", "columba");
    let request = request.header("origin", origin).header("access-control-request-method", "POST");
    let request = request.header("access-control-request-headers", "authorization,content-type,x-grpc-web");
    request.body(Full::default()).unwrap()
}

fn create(name: &str) -> CreateTopicRequest {
    let topic = Topic { name: name.into(), ..Topic::default() };
    CreateTopicRequest { topic: Some(topic), validate_only: false }
}

/// The messages of a body, and its trailers.
fn read(mut body: Bytes) -> (Vec<Bytes>, String) {
    let (mut messages, mut trailers) = (Vec::new(), String::new());
    while !body.is_empty() {
        let length = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
        let (kind, frame) = (body[0], body.slice(5..5 + length));
        body = body.slice(5 + length..);
        if kind & 0x80 == 0 {
            messages.push(frame);
        } else {
            trailers.push_str(std::str::from_utf8(&frame).unwrap());
        }
    }
    (messages, trailers)
}

#[tokio::test]
async fn a_page_of_a_named_origin_may_call_and_read_the_status() {
    let server = server(Some(only_the_page())).await;
    let asked = send(&server, preflight(PAGE)).await.unwrap();
    assert_eq!(asked.status(), StatusCode::OK);
    assert_eq!(asked.headers()["access-control-allow-origin"], PAGE);
    assert_eq!(asked.headers()["access-control-allow-methods"], "POST");
    let headers = &asked.headers()["access-control-allow-headers"];
    assert_eq!(headers, "authorization,content-type,x-grpc-web");

    let created = send(&server, call(CREATE, Some(PAGE), &create("orders"))).await.unwrap();
    assert_eq!(created.status(), StatusCode::OK);
    assert_eq!(created.headers()["content-type"], "application/grpc-web+proto");
    let (messages, trailers) = read(created.into_body());
    assert_eq!((messages.len(), trailers.as_str()), (1, "grpc-status:0\r\n"));

    let get = call(GET, Some(PAGE), &GetTopicRequest { topic: "orders".into() });
    let (messages, _) = read(send(&server, get).await.unwrap().into_body());
    let topic = GetTopicResponse::decode(messages[0].clone()).unwrap().topic.unwrap();
    assert_eq!(topic.name, "orders");

    let missing = call(GET, Some(PAGE), &GetTopicRequest { topic: "missing".into() });
    let missing = send(&server, missing).await.unwrap();
    let exposed = missing.headers()["access-control-expose-headers"].to_str().unwrap().to_owned();
    for name in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
        assert!(exposed.contains(name), "{exposed}");
        assert!(missing.headers().contains_key(name), "{name}: {:?}", missing.headers());
    }
    assert_eq!(missing.headers()["grpc-status"], "5");
}

#[tokio::test]
async fn pages_of_other_origins_are_turned_away_before_anything_happens() {
    let server = server(Some(only_the_page())).await;
    for origin in ["https://evil.example", "http://app.example.com", "https://app.example.com:8443", "null"] {
        let asked = send(&server, preflight(origin)).await.unwrap();
        assert_eq!(asked.status(), StatusCode::FORBIDDEN, "{origin}");
        assert!(!asked.headers().contains_key("access-control-allow-origin"));
        let called = send(&server, call(CREATE, Some(origin), &create("orders"))).await.unwrap();
        assert_eq!(called.status(), StatusCode::FORBIDDEN, "{origin}");
        let text = String::from_utf8(called.into_body().to_vec()).unwrap();
        assert!(text.contains(origin) && text.contains("web.origins"), "{text}");
    }
    // What is no browser says no origin, and may.
    let get = call(GET, None, &GetTopicRequest { topic: "orders".into() });
    let got = send(&server, get).await.unwrap();
    assert_eq!(got.headers()["grpc-status"], "5", "nothing was created");
}

#[tokio::test]
async fn any_origin_may_where_the_operator_says_so() {
    let server = server(Some(Origins::Any)).await;
    let asked = send(&server, preflight("https://anybody.example")).await.unwrap();
    assert_eq!(asked.headers()["access-control-allow-origin"], "*");
    let created = send(&server, call(CREATE, Some("https://anybody.example"), &create("orders"))).await;
    assert_eq!(read(created.unwrap().into_body()).1, "grpc-status:0\r\n");
}

#[tokio::test]
async fn what_is_no_call_over_http1_is_refused() {
    let server = server(Some(only_the_page())).await;
    let get = Request::get("/").header("host", "columba").body(Full::default()).unwrap();
    assert_eq!(send(&server, get).await.unwrap().status(), StatusCode::BAD_REQUEST);
    let mut put = call(CREATE, Some(PAGE), &create("orders"));
    *put.method_mut() = Method::PUT;
    assert_eq!(send(&server, put).await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn without_named_origins_there_is_no_http1() {
    let server = server(None).await;
    assert!(send(&server, call(CREATE, Some(PAGE), &create("orders"))).await.is_none());
}
