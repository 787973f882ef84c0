//! Word of new messages in one topic or in several.

use std::future::pending;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
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
                        return;
                    }
                }
                pending::<()>().await;
            }
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
