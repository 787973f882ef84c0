//! `grpc.health.v1`: whether the server serves.

use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthApi, HealthServer};
use tonic_health::server::HealthReporter;
use tonic_reflection::pb as reflection;

use crate::proto::FILE_DESCRIPTOR_SET;

/// The protos of everything that is served.
const SERVED: [&[u8]; 4] = [
    FILE_DESCRIPTOR_SET,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    reflection::v1::FILE_DESCRIPTOR_SET,
    reflection::v1alpha::FILE_DESCRIPTOR_SET,
];

/// The handle to the server's health.
pub(crate) struct Health {
    reporter: HealthReporter,
    services: Vec<String>,
}

/// The health service, with everything SERVING.
pub(super) async fn service() -> (Health, HealthServer<impl HealthApi>) {
    let (reporter, service) = tonic_health::server::health_reporter();
    let health = Health { reporter, services: services() };
    health.set(ServingStatus::Serving).await;
    (health, service)
}

/// Every service that clients may ask about; the empty name is the server as a whole. A service missing
/// here would be `NOT_FOUND` to a health check.
fn services() -> Vec<String> {
    let mut names = vec![String::new()];
    for set in SERVED {
        let set = FileDescriptorSet::decode(set).expect("the descriptors come from the build");
        for file in set.file {
            let package = file.package().to_owned();
            names.extend(file.service.iter().map(|service| format!("{package}.{}", service.name())));
        }
    }
    names
}

impl Health {
    /// Tells everyone who asks or watches that the server is leaving.
    pub(crate) async fn set_not_serving(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    async fn set(&self, status: ServingStatus) {
        for service in &self.services {
            self.reporter.set_service_status(service, status).await;
        }
    }
}
