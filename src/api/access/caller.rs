//! Who has made a call, and whether they would still be let in.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use tonic::Status;

use super::audit::Told;
use super::{Asks, Rpc, Security};
use crate::authorization::{Denied, Target, Verb};
use crate::identity::{Authenticator, Principal, Session};

/// Most names that a stream can hold. It is opened with one request, which names fewer.
const MAX_HELD: usize = 1_000;

/// Who has made a call: in the extensions of its request, and shared by its two bodies.
pub(in crate::api) struct Caller {
    security: Security,
    authenticator: Arc<Authenticator>,
    session: Session,
    peer: Option<SocketAddr>,
    /// What must stay allowed.
    held: Mutex<Held>,
    /// Why they are not let in any more.
    refused: OnceLock<Box<Status>>,
}

#[derive(Default)]
struct Held {
    rpc: Option<&'static Rpc>,
    /// The rules that allowed it.
    generation: u64,
    /// Without a name, some name or other.
    needs: Vec<(Verb, Option<Box<str>>)>,
}

impl Caller {
    pub(in crate::api) fn new(
        security: Security,
        authenticator: Arc<Authenticator>,
        session: Session,
        peer: Option<SocketAddr>,
    ) -> Self {
        let (held, refused) = (Mutex::default(), OnceLock::new());
        Self { security, authenticator, session, peer, held, refused }
    }

    pub(in crate::api) fn principal(&self) -> &Arc<Principal> {
        &self.session.principal
    }

    /// How often to look whether they would still be let in.
    pub(in crate::api) fn recheck(&self) -> Duration {
        self.authenticator.settings().recheck
    }

    pub(super) fn is_limited(&self) -> bool {
        self.security.authorizer.is_some()
    }

    /// Whether they may do what a request asks for. What must be held is looked at again later.
    pub(super) fn check<R: Asks>(&self, request: &R, hold: bool) -> Result<(), Denied> {
        let Some(authorizer) = &self.security.authorizer else { return Ok(()) };
        if hold {
            // A request on a stream is a part of that.
            self.held().rpc.get_or_insert(R::RPC);
        }
        request.ask(|verb, target| {
            if hold {
                // Before the rules are asked: new ones may come in between.
                self.hold(verb, target);
            }
            authorizer.check(self.principal(), verb, target)
        })
    }

    pub(super) fn allows(&self, verb: Verb, name: &str) -> bool {
        let authorizer = self.security.authorizer.as_ref();
        authorizer.is_none_or(|rules| rules.check(self.principal(), verb, Target::Names(name)).is_ok())
    }

    /// From now on this must stay allowed.
    pub(super) fn hold(&self, verb: Verb, target: Target<'_>) {
        let Some(authorizer) = &self.security.authorizer else { return };
        let mut held = self.held();
        if held.needs.is_empty() {
            held.generation = authorizer.generation();
        }
        if held.needs.len() < MAX_HELD {
            let name = match target {
                Target::Names(name) => Some(name.into()),
                Target::Any => None,
            };
            held.needs.push((verb, name));
        }
    }

    /// The stream that they have opened.
    pub(super) fn stream(&self) -> Option<&'static Rpc> {
        self.held().rpc
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell_denied(&self, rpc: &Rpc, denied: &Denied) {
        self.security.audit.denied(&self.told(rpc.service, rpc.method), denied);
    }

    /// Who does what, for the audit log.
    pub(super) fn told<'a>(&'a self, service: &'a str, method: &'a str) -> Told<'a> {
        Told { principal: Some(&self.principal().name), peer: self.peer, service, method }
    }

    /// Why they are not let in any more, as far as that is known.
    pub(in crate::api) fn refused(&self) -> Option<&Status> {
        self.refused.get().map(|status| &**status)
    }

    /// Looks whether they would still be let in, and may still do what they are about.
    pub(in crate::api) fn recheck_now(&self) -> Option<&Status> {
        if self.refused.get().is_none()
            && let Err(status) = self.still_allowed()
        {
            let _ = self.refused.set(Box::new(status));
        }
        self.refused()
    }

    fn still_allowed(&self) -> Result<(), Status> {
        if let Err(refused) = self.authenticator.check(&self.session, SystemTime::now()) {
            let rpc = self.held().rpc;
            let (service, method) = rpc.map_or(("", ""), |rpc| (rpc.service, rpc.method));
            self.security.audit.unauthenticated(&self.told(service, method), &refused);
            return Err(Status::from(&refused));
        }
        let Some(authorizer) = &self.security.authorizer else { return Ok(()) };
        let mut held = self.held();
        let generation = authorizer.generation();
        if held.needs.is_empty() || held.generation == generation {
            return Ok(());
        }
        for (verb, name) in &held.needs {
            let target = name.as_deref().map_or(Target::Any, Target::Names);
            if let Err(denied) = authorizer.check(self.principal(), *verb, target) {
                if let Some(rpc) = held.rpc {
                    self.tell_denied(rpc, &denied);
                }
                return Err(Status::from(denied));
            }
        }
        held.generation = generation;
        Ok(())
    }
}
