//! Subscriptions at work: who gets which message, and what became of it.
//!
//! [`leases`] is the state machine, without I/O, clock or lock. [`dispatch`] is the task that owns
//! one for each subscription and feeds it. [`consumer`] and [`ephemeral`] are what streams hold;
//! [`burial`] takes a message that was given up to the dead letters; [`sieve`] leaves out what the
//! subscription's filter does not want. [`history`] is what is remembered; [`turns`] says which topic comes next,
//! [`visible`] when there is more.

pub(crate) mod ack_id;
pub(crate) mod burial;
pub(crate) mod consumer;
pub(crate) mod dispatch;
pub(crate) mod ephemeral;
pub(crate) mod history;
pub(crate) mod leases;
pub(crate) mod sieve;
mod slow;
pub(crate) mod turns;
pub(crate) mod visible;
