//! Deletes subscriptions that nobody uses any more, where their owners asked for that.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Shared;
use super::subscriptions::SubscriptionHandle;

/// How long to wait before the next look at least, however short the times are; less only where all are
/// short. One look goes through all subscriptions.
const LONGEST_GRAIN: Duration = Duration::from_secs(1);
/// The same where all times are short, as in tests.
const SHORTEST_GRAIN: Duration = Duration::from_millis(5);

/// Looks after all subscriptions until the engine is closed or gone.
pub(super) async fn run(engine: Weak<Shared>) {
    let Some(shared) = engine.upgrade() else { return };
    let (mut end, changed) = (shared.end.subscribe(), Arc::clone(&shared.expiry_changed));
    drop(shared);
    loop {
        let Some(shared) = engine.upgrade() else { return };
        let next = shared.delete_unused(Instant::now()).await;
        let wait = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ended = end.wait_for(Option::is_some) => return,
            () = changed.notified() => {}
            () = wait => {}
        }
    }
}

impl Shared {
    /// Deletes what has gone unused for too long. Returns when to look again; `None` if nothing expires.
    async fn delete_unused(self: Arc<Self>, now: Instant) -> Option<Instant> {
        let handles: Vec<_> = self.catalog().subscriptions.values().cloned().collect();
        let (mut next, mut grain) = (None::<Instant>, LONGEST_GRAIN);
        for handle in handles {
            let expires = match handle.expires(now) {
                Some(expires) if expires <= now => self.delete_if_unused(&handle).await,
                expires => expires,
            };
            let Some(expires) = expires else { continue };
            grain = grain.min((handle.idle_expiry() / 100).max(SHORTEST_GRAIN));
            next = Some(next.map_or(expires, |next| next.min(expires)));
        }
        next.map(|next| next.max(now + grain))
    }

    /// Deletes a subscription, or returns when it expires if somebody used it in the meantime.
    async fn delete_if_unused(&self, handle: &Arc<SubscriptionHandle>) -> Option<Instant> {
        let Ok(changes) = self.changing().await else { return Some(Instant::now() + LONGEST_GRAIN) };
        let name = &handle.name;
        let is_there = self.catalog().subscriptions.get(name).is_some_and(|found| Arc::ptr_eq(found, handle));
        let now = Instant::now();
        let expires = handle.expires(now).filter(|_| is_there)?;
        if expires > now {
            return Some(expires);
        }
        let idle_expiry = handle.idle_expiry();
        if let Err(error) = self.remove_subscription(handle, &changes).await {
            tracing::error!(subscription = %name, %error, "unused, but not deleted; trying again");
            return Some(now);
        }
        tracing::info!(subscription = %name, ?idle_expiry, "deleted: nobody used it for so long");
        None
    }
}
