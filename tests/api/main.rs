//! The API as clients see it, over gRPC.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]
#![allow(clippy::disallowed_methods, reason = "a test client may queue without a limit")]
#![allow(clippy::unnecessary_wraps, clippy::semicolon_if_nothing_returned, clippy::clone_on_copy)]

#[path = "../common/mod.rs"]
mod common;

mod consume;
mod failing;
mod publish;
mod raw;
mod server;
mod subscribe;
mod subscriptions;
mod topics;
