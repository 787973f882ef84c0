//! The API as clients see it, over gRPC.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

#[path = "../common/mod.rs"]
mod common;

mod admin;
mod commit;
mod consume;
mod dead_letters;
mod duplicates;
mod failing;
mod filters;
mod patterns;
mod publish;
mod raw;
mod server;
mod subscribe;
mod subscriptions;
mod topics;
mod watching;
