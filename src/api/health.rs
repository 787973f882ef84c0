//! `grpc.health.v1`: whether the server serves.

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthApi, HealthServer};
use tonic_health::server::HealthReporter;

use super::wire::{admin::admin_service_server, v1};

/// Every service that clients may ask about; the empty name is the server as a whole. A service
/// missing here would be `NOT_FOUND` to a health check.
const SERVICES: [&str; 11] = [
    "",
    v1::topic_service_server::SERVICE_NAME,
    v1::publisher_service_server::SERVICE_NAME,
    v1::subscription_service_server::SERVICE_NAME,
    v1::subscriber_service_server::SERVICE_NAME,
    v1::query_service_server::SERVICE_NAME,
    v1::dead_letter_service_server::SERVICE_NAME,
    admin_service_server::SERVICE_NAME,
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// The handle to the server's health.
pub(crate) struct Health(HealthReporter);

/// The health service, with everything SERVING.
pub(super) async fn service() -> (Health, HealthServer<impl HealthApi>) {
    let (reporter, service) = tonic_health::server::health_reporter();
    let health = Health(reporter);
    health.set(ServingStatus::Serving).await;
    (health, service)
}

impl Health {
    /// Tells everyone who asks or watches that the server is leaving.
    pub(crate) async fn set_not_serving(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    async fn set(&self, status: ServingStatus) {
        for service in SERVICES {
            self.0.set_service_status(service, status).await;
        }
    }
}
