//! A gRPC server that decodes what it is sent and answers at once: what the transport can do.

use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::task::{Context, Poll};

use bytes::Bytes;
use columba::proto::v1::subscribe_response::Event;
use columba::proto::v1::{
    AckRequest, AckResponse, Delivery, DeliveryBatch, Message, PublishRequest, PublishResponse,
    StoredMessage, SubscribeRequest, SubscribeResponse,
};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::{CONSUMED, Error, MESSAGE_BYTES, NOOP_SERVER, TOPIC};

/// Messages in a batch: as many of this size as Columba puts into one.
const BATCH: usize = 1_000;
const ACK_ID_BYTES: usize = 33;

/// This program again, as the server. Killed when it goes out of scope.
pub(crate) struct NoopServer {
    child: Child,
    pub(crate) address: String,
}

impl NoopServer {
    /// Starts it on a free port.
    pub(crate) fn start() -> Result<Self, Error> {
        let program = std::env::current_exe()?;
        let mut child = Command::new(program).arg(NOOP_SERVER).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("its output is piped")?).read_line(&mut line)?;
        Ok(Self { child, address: line.trim().to_owned() })
    }
}

impl Drop for NoopServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until it is killed.
#[tokio::main]
pub(crate) async fn serve() -> Result<(), Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let connections = TcpListenerStream::new(listener).map(|connection| {
        let connection = connection?;
        connection.set_nodelay(true)?;
        Ok::<_, std::io::Error>(connection)
    });
    // The windows that Columba has.
    let server =
        Server::builder().initial_stream_window_size(1 << 20).initial_connection_window_size(8 << 20);
    let mut server = server;
    let server = server.add_service(PublisherNoop).add_service(SubscriberNoop);
    Ok(server.serve_with_incoming(connections).await?)
}

#[derive(Clone)]
struct PublisherNoop;

#[derive(Clone)]
struct SubscriberNoop;

impl NamedService for PublisherNoop {
    const NAME: &'static str = "columba.v1.PublisherService";
}

impl NamedService for SubscriberNoop {
    const NAME: &'static str = "columba.v1.SubscriberService";
}

type Answer = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

impl tower::Service<http::Request<Body>> for PublisherNoop {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        let mut grpc = Grpc::new(ProstCodec::<PublishResponse, PublishRequest>::default());
        Box::pin(async move { Ok(grpc.unary(Publish, request).await) })
    }
}

impl tower::Service<http::Request<Body>> for SubscriberNoop {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        if request.uri().path().ends_with("/Ack") {
            let mut grpc = Grpc::new(ProstCodec::<AckResponse, AckRequest>::default());
            return Box::pin(async move { Ok(grpc.unary(Ack, request).await) });
        }
        let mut grpc = Grpc::new(ProstCodec::<SubscribeResponse, SubscribeRequest>::default());
        Box::pin(async move { Ok(grpc.server_streaming(Subscribe, request).await) })
    }
}

struct Publish;

impl UnaryService<PublishRequest> for Publish {
    type Response = PublishResponse;
    type Future = std::future::Ready<Result<Response<PublishResponse>, Status>>;

    fn call(&mut self, request: Request<PublishRequest>) -> Self::Future {
        let last_offset = request.into_inner().messages.len() as u64;
        let answer = PublishResponse { first_offset: 1, last_offset, ..PublishResponse::default() };
        std::future::ready(Ok(Response::new(answer)))
    }
}

struct Ack;

impl UnaryService<AckRequest> for Ack {
    type Response = AckResponse;
    type Future = std::future::Ready<Result<Response<AckResponse>, Status>>;

    fn call(&mut self, request: Request<AckRequest>) -> Self::Future {
        let committed_offset = request.into_inner().ack_ids.len() as u64;
        std::future::ready(Ok(Response::new(AckResponse { committed_offset, failures: Vec::new() })))
    }
}

struct Subscribe;

impl ServerStreamingService<SubscribeRequest> for Subscribe {
    type Response = SubscribeResponse;
    type ResponseStream = BoxStream<'static, Result<SubscribeResponse, Status>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: Request<SubscribeRequest>) -> Self::Future {
        let batch = batch();
        let batches = stream::iter((0..CONSUMED / BATCH).map(move |_| Ok(batch.clone())));
        // The client goes when it has them all.
        let stream = futures::StreamExt::chain(batches, stream::pending());
        std::future::ready(Ok(Response::new(Box::pin(stream))))
    }
}

fn batch() -> SubscribeResponse {
    let message = Message { data: Bytes::from(vec![b'x'; MESSAGE_BYTES]), ..Message::default() };
    let stored = StoredMessage {
        topic: TOPIC.into(),
        offset: 1_000_000,
        publish_time: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 1_000 }),
        message: Some(message),
    };
    let ack_id = Bytes::from(vec![7; ACK_ID_BYTES]);
    let delivery = Delivery { ack_id, attempt: 1, message: Some(stored) };
    SubscribeResponse { event: Some(Event::Batch(DeliveryBatch { deliveries: vec![delivery; BATCH] })) }
}
