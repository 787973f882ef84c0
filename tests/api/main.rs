//! The API as clients see it, over gRPC.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

#[path = "../common/mod.rs"]
mod common;

mod admin;
mod commands;
mod commit;
mod consume;
mod dead_letters;
mod duplicates;
mod failing;
mod filters;
mod key_values;
mod patterns;
mod publish;
mod queries;
mod query_cache;
mod query_watch;
mod raw;
mod read_your_writes;
mod server;
mod subscribe;
mod subscriptions;
mod topics;
mod watching;
mod web;
