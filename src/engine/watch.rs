//! Word of what happens, for any number of watchers, none of which can hold anything up.

use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Error, Result};
use crate::model::limits::{MAX_WATCHERS, WATCH_BACKLOG};
use crate::model::{Name, Topic};

/// A change to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicChanged {
    /// It is new.
    Created(Topic),
    /// Its settings have changed.
    Updated(Topic),
    /// It is gone.
    Deleted(Name),
}

/// What a watcher gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched<T> {
    /// This happened.
    Item(T),
    /// So many things happened that the watcher was too slow for.
    Missed(u64),
}

/// What a watcher reads. Ends when the engine does.
pub type Watch<T> = BoxStream<'static, Watched<T>>;

/// Tells watchers. A watcher that falls [`WATCH_BACKLOG`] behind misses what is oldest.
#[derive(Debug)]
pub(crate) struct Announcer<T> {
    sender: broadcast::Sender<T>,
    places: Arc<Semaphore>,
}

impl<T> Clone for Announcer<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), places: Arc::clone(&self.places) }
    }
}

impl<T: Clone + Send + 'static> Default for Announcer<T> {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(WATCH_BACKLOG), places: Arc::new(Semaphore::new(MAX_WATCHERS)) }
    }
}

impl<T: Clone + Send + 'static> Announcer<T> {
    /// Tells everybody who watches, if anybody does.
    pub(crate) fn tell(&self, what: impl FnOnce() -> T) {
        if self.sender.receiver_count() > 0 {
            let _ = self.sender.send(what());
        }
    }

    /// Watches from now on, until `end` resolves.
    pub(crate) fn watch(&self, end: impl Future<Output = ()> + Send + 'static) -> Result<Watch<T>> {
        let too_many = |_| Error::TooMany { what: "watchers", limit: MAX_WATCHERS };
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(too_many)?;
        let watching = stream::unfold((self.sender.subscribe(), place), next);
        Ok(watching.take_until(Box::pin(end)).boxed())
    }
}

async fn next<T: Clone>(
    (mut receiver, place): (broadcast::Receiver<T>, OwnedSemaphorePermit),
) -> Option<(Watched<T>, (broadcast::Receiver<T>, OwnedSemaphorePermit))> {
    let watched = match receiver.recv().await {
        Ok(item) => Watched::Item(item),
        Err(RecvError::Lagged(count)) => Watched::Missed(count),
        Err(RecvError::Closed) => return None,
    };
    Some((watched, (receiver, place)))
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn a_slow_watcher_is_told_how_much_it_missed() {
        let announcer = Announcer::default();
        announcer.tell(|| 0);
        let mut watch = announcer.watch(pending()).unwrap();
        let count = WATCH_BACKLOG as u64 + 10;
        for number in 1..=count {
            announcer.tell(|| number);
        }
        let Some(Watched::Missed(missed)) = watch.next().await else { panic!("nothing was missed") };
        assert_eq!(watch.next().await, Some(Watched::Item(missed + 1)));
        assert!(missed >= 10);
        drop(announcer);
        assert_eq!(watch.count().await as u64, count - missed - 1);
    }

    #[tokio::test]
    async fn watchers_are_limited_and_end_with_the_engine() {
        let announcer = Announcer::<()>::default();
        let mut watches: Vec<_> = (0..MAX_WATCHERS).map(|_| announcer.watch(ready(())).unwrap()).collect();
        assert!(matches!(announcer.watch(pending()), Err(Error::TooMany { limit: MAX_WATCHERS, .. })));
        assert_eq!(watches.pop().unwrap().next().await, None);
        assert!(announcer.watch(pending()).is_ok());
    }
}
