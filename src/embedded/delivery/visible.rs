//! Word of new messages in one topic or in several.

use std::future::pending;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;

use crate::embedded::topic::TopicHandle;
use crate::model::Offset;

type Watcher = watch::Receiver<Offset>;

/// The topics that are watched.
pub(crate) enum Visible {
    /// One and no other.
    One(Watcher),
    /// Several, and more later. A topic that is gone leaves by itself.
    Many(FuturesUnordered<BoxFuture<'static, Option<Watcher>>>),
}

impl Visible {
    /// None yet, but any number later.
    pub(crate) fn many() -> Self {
        Self::Many(FuturesUnordered::new())
    }

    /// Watches another topic, for what comes from now on.
    pub(crate) fn add(&mut self, topic: &Arc<TopicHandle>) {
        match self {
            Self::One(watcher) => *watcher = topic.watch(),
            Self::Many(watchers) => watchers.push(Box::pin(changed(topic.watch()))),
        }
    }

    /// Waits until there is something new. May be dropped and called again without losing anything.
    pub(crate) async fn changed(&mut self) {
        match self {
            Self::One(watcher) => {
                if watcher.changed().await.is_err() {
                    pending::<()>().await;
                }
            }
            Self::Many(watchers) => {
                while let Some(watcher) = watchers.next().await {
                    if let Some(watcher) = watcher {
                        watchers.push(Box::pin(changed(watcher)));
                        // One look at all topics is enough for many that have something new.
                        return self.note();
                    }
                }
                pending::<()>().await;
            }
        }
    }

    /// Whatever is new by now counts as known, and topics that are gone are forgotten. For whoever is about to
    /// look at all topics.
    pub(crate) fn note(&mut self) {
        let Self::Many(watchers) = self else { return };
        // Those that change again and again must not hold this up.
        for _ in 0..watchers.len() {
            let Some(Some(watcher)) = watchers.next().now_or_never() else { return };
            watchers.extend(watcher.map(|watcher| -> BoxFuture<'static, _> { Box::pin(changed(watcher)) }));
        }
    }

    /// What there is now is known, as far as it takes no time to note that.
    pub(crate) fn mark_unchanged(&mut self) {
        if let Self::One(watcher) = self {
            watcher.mark_unchanged();
        }
    }
}

async fn changed(mut watcher: Watcher) -> Option<Watcher> {
    watcher.changed().await.is_ok().then_some(watcher)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(topics: u64) -> (Visible, Vec<watch::Sender<Offset>>) {
        let watchers = FuturesUnordered::<BoxFuture<'static, _>>::new();
        let senders = (0..topics).map(|_| watch::Sender::new(0)).collect::<Vec<_>>();
        for sender in &senders {
            watchers.push(Box::pin(changed(sender.subscribe())));
        }
        (Visible::Many(watchers), senders)
    }

    fn count(visible: &Visible) -> usize {
        let Visible::Many(watchers) = visible else { return 1 };
        watchers.len()
    }

    #[tokio::test]
    async fn news_of_many_topics_are_one() {
        let (mut visible, senders) = many(20);
        for sender in &senders {
            sender.send_replace(1);
        }
        visible.changed().await;
        assert!(visible.changed().now_or_never().is_none());
        senders[7].send_replace(2);
        visible.changed().await;
        assert!(visible.changed().now_or_never().is_none());
        assert_eq!(count(&visible), 20);
    }

    #[tokio::test]
    async fn topics_that_are_gone_are_forgotten_though_nobody_waits() {
        let (mut visible, mut senders) = many(20);
        senders.truncate(3);
        visible.note();
        assert_eq!(count(&visible), 3);
        senders[0].send_replace(1);
        visible.changed().await;
    }
}
