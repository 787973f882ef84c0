//! The API as clients see it, over gRPC.

#[path = "../common/mod.rs"]
mod common;

mod consume;
mod publish;
mod raw;
mod server;
mod subscribe;
mod subscriptions;
mod topics;
