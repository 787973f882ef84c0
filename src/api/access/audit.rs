//! The audit log: who changed what, and who was refused, without payloads and tokens.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tonic::Code;

use super::limiter::Limiter;
use crate::api::status::clip;
use crate::authorization::Denied;
use crate::identity::Refused;

/// The target of its events.
const TARGET: &str = "columba::audit";
/// Refusals told at once, of each kind.
const BURST: u32 = 100;
/// How often one more is told after that.
const EVERY: Duration = Duration::from_millis(100);
/// How much of a name is told. Longer ones are no names.
const SHOWN_BYTES: usize = 255;

/// Tells what is to be told. Refusals are limited, so that nobody can fill the disk with them; strangers
/// cannot push out those of known callers.
pub(in crate::api) struct Audit {
    unauthenticated: Mutex<Limiter>,
    denied: Mutex<Limiter>,
}

impl Default for Audit {
    fn default() -> Self {
        let limiter = || Mutex::new(Limiter::new(BURST, EVERY));
        Self { unauthenticated: limiter(), denied: limiter() }
    }
}

/// Who does what.
pub(in crate::api) struct Told<'a> {
    /// None without identity.
    pub(in crate::api) principal: Option<&'a str>,
    pub(in crate::api) peer: Option<SocketAddr>,
    pub(in crate::api) service: &'a str,
    pub(in crate::api) method: &'a str,
}

impl Told<'_> {
    fn rpc(&self) -> String {
        clip(&format!("{}/{}", self.service, self.method), SHOWN_BYTES)
    }

    fn peer(&self) -> String {
        self.peer.map(|peer| peer.to_string()).unwrap_or_default()
    }
}

impl Audit {
    /// What there is was changed, or was to be.
    pub(super) fn changed(told: &Told<'_>, names: &str, outcome: Code) {
        let (rpc, peer, outcome) = (told.rpc(), told.peer(), format!("{outcome:?}"));
        let principal = told.principal.unwrap_or_default();
        tracing::info!(target: TARGET, principal, rpc, names, outcome, peer, "change");
    }

    /// It is not known who calls.
    pub(in crate::api) fn unauthenticated(&self, told: &Told<'_>, refused: &Refused) {
        let Some(suppressed) = admit(&self.unauthenticated) else { return };
        let (rpc, peer, outcome) = (told.rpc(), told.peer(), format!("{:?}", Code::Unauthenticated));
        let (principal, reason) = (told.principal.unwrap_or_default(), refused.reason());
        tracing::warn!(target: TARGET, principal, rpc, outcome, reason, peer, suppressed, "refused");
    }

    /// Somebody may not do what they wanted.
    pub(super) fn denied(&self, told: &Told<'_>, denied: &Denied) {
        let Some(suppressed) = admit(&self.denied) else { return };
        let (rpc, peer, outcome) = (told.rpc(), told.peer(), format!("{:?}", Code::PermissionDenied));
        let (principal, verb) = (told.principal.unwrap_or_default(), denied.verb.as_str());
        let names = clip(denied.name.as_deref().unwrap_or_default(), SHOWN_BYTES);
        tracing::warn!(target: TARGET, principal, rpc, verb, names, outcome, peer, suppressed, "refused");
    }
}

fn admit(limiter: &Mutex<Limiter>) -> Option<u64> {
    limiter.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now())
}
