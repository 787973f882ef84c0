//! Columba: a gRPC message service over one durable log.
//!
//! Everything is a topic, and every topic lives in one log. There is one write path (append, make
//! durable, acknowledge), one read path (topic, offset), and one delivery mechanism (a subscription
//! with leases).
//!
//! # Layout
//!
//! In reading order; dependencies point down this list only (`tests/tidy.rs`):
//!
//! - [`cli`]: the command line, a gRPC client like any other, and `serve`, which puts a server together.
//! - [`config`]: the configuration tree: defaults, file, environment, flags.
//! - [`server`]: builds the services over an engine, serves, drains.
//! - [`api`]: one file per service; wire types in, domain types on, and errors to statuses.
//! - [`authorization`]: what callers may do, by rules in a file.
//! - [`identity`]: who calls, from certificates, tokens and JWTs.
//! - [`tls`]: certificates and keys, replaced while the server runs.
//! - [`cqrs`]: commands, queries and key-value views, over the contract of an engine.
//! - [`embedded`]: the engine that keeps one log on the local disk.
//! - [`engine`]: the contract of a message engine, and an in-memory reference.
//! - [`meter`]: counting and timing.
//! - [`model`]: names, messages, positions, limits, kinds of errors.
//! - [`proto`]: the API as clients see it, generated from `proto/`.
//! - [`telemetry`]: what is logged, and how.
//! - `watched`: files that others replace while the server runs.

pub mod api;
pub mod authorization;
pub mod cli;
pub mod config;
pub mod cqrs;
pub mod embedded;
pub mod engine;
pub mod identity;
pub mod meter;
pub mod model;
pub mod proto;
pub mod server;
pub mod telemetry;
pub mod tls;
mod watched;
