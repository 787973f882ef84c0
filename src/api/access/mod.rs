//! What callers may do: each request is asked about before its service sees it.
//!
//! `table` says what a request asks for, `gate` is around every service, and `caller` knows who calls and
//! what must stay allowed for as long as a stream is open.

mod audit;
mod caller;
mod gate;
mod limiter;
mod table;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tonic::{Request, Streaming};

use super::status::Refusal;
use crate::authorization::{Authorizer, Denied, Target, Verb};
use crate::identity::{Authenticator, Principal};
use crate::model::Name;

pub(super) use self::audit::{Audit, Told};
pub(super) use self::caller::Caller;
pub(super) use self::gate::Guarded;

/// An RPC, and what it asks for.
pub(super) struct Rpc {
    /// The service, with its package.
    service: &'static str,
    method: &'static str,
    /// Whether it stays open. What it has asked for must stay allowed.
    streams: bool,
    /// Verbs, and the fields that say of which names. Only for people and tests: `Asks::ask` decides.
    #[cfg_attr(not(test), expect(dead_code, reason = "read by the test that compares it with the docs"))]
    asks: &'static [(Verb, &'static str)],
}

/// A request that says what it asks for.
pub(super) trait Asks {
    const RPC: &'static Rpc;

    /// Tells everything that the request asks for, until something is refused.
    fn ask<E>(&self, ask: impl FnMut(Verb, Target<'_>) -> Result<(), E>) -> Result<(), E>;

    /// Whether it changes what there is, which the audit log tells.
    fn changes(&self) -> bool {
        false
    }
}

/// A stream of requests is opened as an empty one would be. Each that comes is asked about by its service.
impl<T: Asks + Default> Asks for Streaming<T> {
    const RPC: &'static Rpc = T::RPC;

    fn ask<E>(&self, ask: impl FnMut(Verb, Target<'_>) -> Result<(), E>) -> Result<(), E> {
        T::default().ask(ask)
    }
}

/// Who is let in, what they may do, and where it is told.
#[derive(Clone)]
pub(crate) struct Security {
    /// Decides who calls. Without, everybody may do everything.
    pub(super) authenticator: Option<Arc<Authenticator>>,
    /// Decides what they may do. Without, everything.
    pub(super) authorizer: Option<Arc<Authorizer>>,
    pub(super) audit: Arc<Audit>,
}

impl Security {
    /// Authorization needs identity: without an authenticator, the authorizer is asked nothing.
    pub(crate) fn new(
        authenticator: Option<Arc<Authenticator>>,
        authorizer: Option<Arc<Authorizer>>,
    ) -> Self {
        let authorizer = authorizer.filter(|_| authenticator.is_some());
        Self { authenticator, authorizer, audit: Arc::default() }
    }
}

/// What the caller of a request may do, for services that learn only later what is asked for.
#[derive(Clone)]
pub(super) struct Access(Option<Arc<Caller>>);

impl Access {
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        Self(request.extensions().get().cloned())
    }

    /// Asks about a request that came on a stream.
    pub(super) fn check<R: Asks>(&self, request: &R) -> Result<(), Refusal> {
        self.ask(request, false)
    }

    /// The same, and it must stay allowed for as long as the stream is open.
    pub(super) fn check_and_hold<R: Asks>(&self, request: &R) -> Result<(), Refusal> {
        self.ask(request, true)
    }

    fn ask<R: Asks>(&self, request: &R, hold: bool) -> Result<(), Refusal> {
        let Some(caller) = &self.0 else { return Ok(()) };
        caller.check(request, hold).map_err(|denied: Denied| {
            caller.tell_denied(caller.stream().unwrap_or(R::RPC), &denied);
            denied.into()
        })
    }

    /// Whether what was found may be seen. What may not looks as if it were missing.
    pub(super) fn allows(&self, verb: Verb, name: &Name) -> bool {
        self.0.as_ref().is_none_or(|caller| caller.allows(verb, name.as_str()))
    }

    /// What was found must stay allowed for as long as the stream is open.
    pub(super) fn hold(&self, verb: Verb, name: &Name) {
        if let Some(caller) = &self.0 {
            caller.hold(verb, Target::Names(name.as_str()));
        }
    }

    /// Whether anything may be forbidden at all.
    pub(super) fn is_limited(&self) -> bool {
        self.0.as_ref().is_some_and(|caller| caller.is_limited())
    }

    /// Who calls, if that is known.
    pub(super) fn principal(&self) -> Option<&Principal> {
        self.0.as_deref().map(|caller| &**caller.principal())
    }

    fn caller(&self) -> Option<&Caller> {
        self.0.as_deref()
    }
}
