//! The gRPC services: the only layer that knows tonic, the wire types and `Status`.
//!
//! One file per service. Input is checked once, here (`validate`, `envelope`); what passes is
//! domain types, which go to the engine and come back through `convert`.

mod access;
mod admin;
mod authenticate;
mod authorization;
mod body;
mod calls;
mod commands;
mod commit;
mod consume;
mod convert;
mod dead_letters;
mod envelope;
mod explain;
mod handled;
mod health;
mod key_values;
mod layers;
mod page;
mod publish_stream;
mod publisher;
mod queries;
mod settle;
mod status;
mod subscribe;
mod subscriber;
mod subscriptions;
mod topics;
mod unfinished;
mod validate;
mod watch;
mod web;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::service::{LayerExt, Routes};

use self::access::Guarded;
use self::layers::UntilStopLayer;
use self::wire::admin::admin_service_server::AdminServiceServer;
use self::wire::v1::command_service_server::CommandServiceServer;
use self::wire::v1::dead_letter_service_server::DeadLetterServiceServer;
use self::wire::v1::key_value_service_server::KeyValueServiceServer;
use self::wire::v1::publisher_service_server::PublisherServiceServer;
use self::wire::v1::query_service_server::QueryServiceServer;
use self::wire::v1::subscriber_service_server::SubscriberServiceServer;
use self::wire::v1::subscription_service_server::SubscriptionServiceServer;
use self::wire::v1::topic_service_server::TopicServiceServer;
use crate::cqrs::Cqrs;
use crate::engine::Engine;
use crate::model::limits::MAX_REQUEST_BYTES;
use crate::proto::FILE_DESCRIPTOR_SET;

pub(crate) use self::access::Security;
pub(crate) use self::authenticate::{AuthenticateLayer, Peer};
pub(crate) use self::calls::{Calls, CallsLayer, MethodReadings};
pub(crate) use self::health::Health;
pub(crate) use self::layers::AnswerLayer;
pub(crate) use self::unfinished::UnfinishedLayer;
pub(crate) use self::web::web_layer;

/// What every service works with.
#[derive(Clone)]
pub(crate) struct Context {
    /// Keeps the messages.
    pub(crate) engine: Arc<dyn Engine>,
    /// Commands, queries and views over it.
    pub(crate) cqrs: Arc<Cqrs>,
    /// Ends every stream when the server stops.
    pub(crate) stop: CancellationToken,
    /// Silence on a stream after which a heartbeat is sent.
    pub(crate) heartbeat: Duration,
    /// Who may call, and what for.
    pub(crate) security: Security,
}

/// The server's services wrapped alike: callers get only what they may, compressed requests are taken,
/// large ones are not, and responses are not compressed, since compressing costs more than a local network
/// does.
macro_rules! tuned {
    ($server:ident, $service:expr, $security:expr) => {
        $server::new(Guarded::new($service, $security.clone()))
            .accept_compressed(Gzip)
            .accept_compressed(Zstd)
            .max_decoding_message_size(MAX_REQUEST_BYTES)
    };
}

/// Builds every service of the server, and the handle to its health, which is SERVING from the
/// beginning.
pub(crate) async fn services(context: Context) -> (Health, Routes) {
    let (health, health_service) = health::service().await;
    // These services are not ours and do not know when the server stops.
    let until_stop = UntilStopLayer::new(context.stop.clone());
    let reflection = || {
        // Health, so that it can be called by reflection, and the error details, so that grpcurl
        // shows them as text.
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = reflection().build_v1().expect("the descriptors come from the build");
    let v1alpha = reflection().build_v1alpha().expect("the descriptors come from the build");

    let security = context.security.clone();
    let streaming = body::layer();
    let mut routes = Routes::builder();
    routes
        .add_service(tuned!(TopicServiceServer, topics::Topics(context.clone()), security))
        .add_service(tuned!(PublisherServiceServer, publisher::Publisher(context.clone()), security))
        .add_service(tuned!(
            SubscriptionServiceServer,
            subscriptions::Subscriptions(context.clone()),
            security
        ))
        .add_service(tuned!(SubscriberServiceServer, subscriber::Subscriber(context.clone()), security))
        .add_service(tuned!(DeadLetterServiceServer, dead_letters::DeadLetters(context.clone()), security))
        .add_service(tuned!(CommandServiceServer, commands::Commands(context.clone()), security))
        .add_service(streaming.named_layer(tuned!(
            KeyValueServiceServer,
            key_values::KeyValues(context.clone()),
            security
        )))
        .add_service(streaming.named_layer(tuned!(
            QueryServiceServer,
            queries::Queries(context.clone()),
            security
        )))
        .add_service(tuned!(AdminServiceServer, admin::Admin::new(context), security))
        .add_service(until_stop.named_layer(health_service))
        .add_service(until_stop.named_layer(v1))
        .add_service(until_stop.named_layer(v1alpha));
    (health, routes.routes())
}
