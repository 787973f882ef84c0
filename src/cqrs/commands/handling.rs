//! One handler: what it is given, and what it is told.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::select_all;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Inner;
use super::ack::Ack;
use super::error::Result;
use super::execution::{Delivered, Execution, Lease};
use super::holder::Holder;
use super::lines::{Line, Lines};
use super::live::Id;
use super::record::{Command, StoredCommand};
use super::types::Type;
use crate::cqrs::handlers::{HandlerKind, Listed};
use crate::engine::{Consumer, Credit, Retry, Settlement, Target};
use crate::model::limits::{COMMAND_LEASE, DEFAULT_OUTSTANDING_BYTES};
use crate::model::{Delivery, Name, Timestamp};

/// How often the leases of commands that wait for their key are extended: a third of them.
const EXTEND_EVERY: Duration = Duration::from_secs(10);

/// What happens on a handler's stream.
#[derive(Debug)]
pub(crate) enum Event {
    /// A command to carry out.
    Delivery(Box<Handed>),
    /// Somebody wants one cancelled that it holds.
    CancelRequested {
        /// The command.
        id: String,
        /// The delivery.
        ack_id: Bytes,
    },
}

/// A command in the hands of a handler.
#[derive(Debug)]
pub(crate) struct Handed {
    /// Names the delivery.
    pub(crate) ack_id: Bytes,
    /// How often it was delivered.
    pub(crate) attempt: u32,
    /// What is to be done.
    pub(crate) command: Command,
    /// Until when.
    pub(crate) expires: Timestamp,
}

/// A handler's stream. Dropping it gives back what it holds.
pub(crate) struct Handling {
    inner: Arc<Inner>,
    listed: Listed,
    holder: Arc<Holder>,
    sources: Vec<Source>,
    /// The source that is asked first.
    turn: usize,
    /// What waits for its key.
    lines: Lines,
    /// When the leases of what waits are extended.
    extend_at: Instant,
    /// Whose turn it is of a key; its lease is being made anew. Here, for a call of `next` may be dropped.
    up_next: Option<(Line, Delivery)>,
    /// Whether there is space for what becomes of commands; without, none is handed out.
    space: watch::Receiver<bool>,
    /// What is to be handed out, with the engine's names for the deliveries.
    ready: VecDeque<(Bytes, Handed)>,
}

/// What has come of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// It is handed out.
    HandedOut,
    /// It is not, and the next of its key may be.
    Over,
    /// It may come again: what follows it of its key waits for that.
    Unknown,
}

/// Where commands of a type come from.
struct Source {
    kind: Arc<Type>,
    consumer: Box<dyn Consumer>,
    /// It was asked, and has not answered yet: something may be on its way.
    asked: bool,
}

impl Source {
    /// May be dropped and called again.
    async fn next(&mut self) -> Result<(Arc<Type>, Vec<Delivery>)> {
        self.asked = true;
        let deliveries = self.consumer.next().await;
        self.asked = false;
        Ok((Arc::clone(&self.kind), deliveries?))
    }
}

impl Handling {
    pub(super) async fn open(
        inner: Arc<Inner>,
        types: Vec<Name>,
        name: &str,
        max_outstanding: u32,
    ) -> Result<Self> {
        let mut kinds = Vec::with_capacity(types.len());
        for kind in &types {
            kinds.push(inner.types.make(&*inner.engine, kind).await?);
        }
        let listed = inner.handlers.join(HandlerKind::Command, name, types, max_outstanding)?;
        let shares = u32::try_from(kinds.len()).unwrap_or(u32::MAX);
        let credit = Credit { messages: (max_outstanding / shares).max(1), bytes: DEFAULT_OUTSTANDING_BYTES };
        let mut sources = Vec::with_capacity(kinds.len());
        for kind in kinds {
            let target = Target::Durable(kind.commands.clone());
            let consumer = inner.engine.subscribe_as(target, credit, name).await?;
            sources.push(Source { kind, consumer, asked: false });
        }
        let tally = listed.tally().clone();
        let holder = Holder::new(tally);
        Ok(Self {
            space: inner.space.follow(),
            inner,
            listed,
            holder: Arc::new(holder),
            sources,
            turn: 0,
            lines: Lines::default(),
            extend_at: Instant::now() + EXTEND_EVERY,
            up_next: None,
            ready: VecDeque::new(),
        })
    }

    /// The server's name for the handler.
    pub(crate) fn id(&self) -> String {
        self.listed.id()
    }

    /// What happens next. May be dropped and called again. An error is final.
    pub(crate) async fn next(&mut self) -> Result<Event> {
        loop {
            // First, so that no delivery comes after the request to cancel it.
            if let Some(handed) = self.next_ready() {
                return Ok(Event::Delivery(Box::new(handed)));
            }
            if let Some((id, ack)) = self.holder.next_cancelled() {
                let ack_id = Ack { id: id.to_string(), ack }.encode();
                return Ok(Event::CancelRequested { id: id.to_string(), ack_id });
            }
            let is_leaving = self.listed.is_draining();
            if is_leaving {
                self.give_back_what_waits();
            }
            let is_taking = *self.space.borrow_and_update() && !is_leaving;
            if is_taking && self.up_next.is_some() {
                self.go_on().await?;
                continue;
            }
            // Without space, what follows keeps its place.
            if self.up_next.is_none()
                && let Some((line, id, ended)) = self.holder.next_freed()
            {
                let id_of = |delivery: &Delivery| Some(Id::from(delivery.message.envelope.header().id));
                let next = self.lines.freed(&line, &id, ended, id_of);
                self.up_next = next.map(|next| (line, next));
                continue;
            }
            let (holder, extend_at, mut space) =
                (Arc::clone(&self.holder), self.extend_at, self.space.clone());
            let draining = self.listed.draining();
            let (kind, deliveries) = tokio::select! {
                biased;
                () = holder.told() => continue,
                // Its sender is in `inner`.
                _ = space.changed() => continue,
                () = draining, if !is_leaving => continue,
                () = sleep_until(extend_at) => {
                    self.extend_what_waits().await?;
                    continue;
                }
                deliveries = self.deliveries(is_taking) => deliveries?,
            };
            if is_taking {
                for delivery in deliveries {
                    self.come(&kind, delivery);
                }
            } else {
                // They were on their way.
                self.give_back(kind, deliveries);
            }
        }
    }

    /// A delivery has come from the engine: it is taken up, or waits for its key.
    fn come(&mut self, kind: &Arc<Type>, delivery: Delivery) {
        let header = delivery.message.envelope.header();
        let (id, key) = (Id::from(header.id), header.key.to_owned());
        if key.is_empty() {
            self.take(kind, None, delivery);
            return;
        }
        let line = (kind.name.clone(), key);
        if let Some(delivery) = self.lines.come(&line, &id, delivery) {
            let taken = self.take(kind, Some(line.clone()), delivery);
            self.free_unless_held(line, id, taken);
        }
    }

    /// What is to be handed out next. What has ended meanwhile, or is another's, is not.
    fn next_ready(&mut self) -> Option<Handed> {
        while let Some((ack, handed)) = self.ready.pop_front() {
            if self.holder.holds(&handed.command.id, &ack) {
                return Some(handed);
            }
        }
        None
    }

    /// It is somebody's turn: it is taken up.
    async fn go_on(&mut self) -> Result<()> {
        let Some((line, next)) = &self.up_next else { return Ok(()) };
        let kind = self.inner.types.find(&line.0)?;
        // It has waited on its lease; one that is lost comes again.
        let extend = Settlement::Extend { deadline: Some(COMMAND_LEASE) };
        let extended = self.inner.engine.settle(&kind.commands, vec![next.ack_id.clone()], extend).await?;
        let Some((line, next)) = self.up_next.take() else { return Ok(()) };
        let id = Id::from(next.message.envelope.header().id);
        let taken = if extended.failures.is_empty() {
            self.take(&kind, Some(line.clone()), next)
        } else {
            Taken::Over
        };
        self.free_unless_held(line, id, taken);
        Ok(())
    }

    /// What is not handed out does not hold its key up.
    fn free_unless_held(&self, line: Line, id: Id, taken: Taken) {
        match taken {
            Taken::HandedOut => {}
            Taken::Over => self.holder.free(line, id, true),
            Taken::Unknown => self.holder.free(line, id, false),
        }
    }

    /// Keeps the leases of what waits for its key.
    async fn extend_what_waits(&mut self) -> Result<()> {
        let mut waiting: HashMap<Name, Vec<Bytes>> = HashMap::new();
        for (kind, delivery) in self.lines.waiting() {
            waiting.entry(kind.clone()).or_default().push(delivery.ack_id.clone());
        }
        for (kind, acks) in waiting {
            let Ok(kind) = self.inner.types.find(&kind) else { continue };
            let extend = Settlement::Extend { deadline: Some(COMMAND_LEASE) };
            let extended = self.inner.engine.settle(&kind.commands, acks, extend).await?;
            let lost: HashSet<_> = extended.failures.into_iter().map(|(ack, _)| ack).collect();
            if !lost.is_empty() {
                self.lines.lost(|delivery| lost.contains(&delivery.ack_id));
            }
        }
        self.extend_at = Instant::now() + EXTEND_EVERY;
        Ok(())
    }

    /// Waits for deliveries of any type, beginning with another one each time; if it takes no more, only for
    /// those that were asked for before.
    async fn deliveries(&mut self, is_taking: bool) -> Result<(Arc<Type>, Vec<Delivery>)> {
        self.turn = (self.turn + 1) % self.sources.len();
        let (late, early) = self.sources.split_at_mut(self.turn);
        let asked = early.iter_mut().chain(late).filter(|source| is_taking || source.asked);
        let waiting: Vec<_> = asked.map(|source| source.next().boxed()).collect();
        if waiting.is_empty() {
            std::future::pending::<()>().await;
        }
        select_all(waiting).await.0
    }

    /// Gives back what waits for its key.
    fn give_back_what_waits(&mut self) {
        let mut waiting: HashMap<Name, Vec<Delivery>> = HashMap::new();
        let up_next = self.up_next.take().map(|((kind, _), next)| (kind, next));
        for (kind, delivery) in self.lines.give_up().chain(up_next) {
            waiting.entry(kind).or_default().push(delivery);
        }
        for (kind, deliveries) in waiting {
            if let Ok(kind) = self.inner.types.find(&kind) {
                self.give_back(kind, deliveries);
            }
        }
    }

    /// Gives deliveries back, for others or for later.
    fn give_back(&self, kind: Arc<Type>, deliveries: Vec<Delivery>) {
        let inner = Arc::clone(&self.inner);
        let acks = deliveries.into_iter().map(|delivery| delivery.ack_id).collect();
        tokio::spawn(async move {
            let nack =
                Settlement::Nack { retry: Retry::After(Duration::ZERO), reason: "not handed out".into() };
            // Without an answer the leases run out.
            drop(inner.engine.settle(&kind.commands, acks, nack).await);
        });
    }

    /// Takes up a delivery: hands it out, or has the command ended.
    fn take(&mut self, kind: &Arc<Type>, line: Option<Line>, delivery: Delivery) -> Taken {
        let Delivery { ack_id: ack, attempt, message } = delivery;
        let Some(stored) = StoredCommand::read(&message.envelope) else {
            tracing::error!(
                kind = %kind.name, offset = message.offset, "a stored command cannot be read; it is passed over"
            );
            self.discard(kind, ack);
            return Taken::Over;
        };
        let id = Id::from(stored.id.as_str());
        if !self.inner.knows(&id) {
            let adopting = Arc::clone(&self.inner).adopt(Arc::clone(kind), stored, message.offset, ack);
            drop(tokio::spawn(adopting));
            return Taken::Unknown;
        }
        let (now, at) = (Instant::now(), Timestamp::now());
        let lease =
            Lease { ack: ack.clone(), attempt, until: now + COMMAND_LEASE, holder: Arc::clone(&self.holder) };
        let delivered = self.inner.change(&id, |live| {
            let execution: &mut Execution<_> = &mut live.execution;
            // The receipt may be on its way still.
            if execution.offset == 0 {
                execution.offset = message.offset;
            }
            if execution.offset != message.offset {
                return (Delivered::Ignore, false);
            }
            let before = execution.lease().cloned();
            let delivered = execution.deliver(lease, now, at);
            // If it comes to the same handler again, that still has it.
            if let (Delivered::HandOut, Some(before)) = (delivered, before)
                && !Arc::ptr_eq(&before.holder, &self.holder)
            {
                before.holder.let_go(&id, &before.ack, false);
            }
            // Before anybody else sees the lease: who ends the command has the holder let go of it.
            if delivered == Delivered::HandOut {
                self.holder.hold(Arc::clone(&id), ack.clone(), line);
            }
            // Who is settling it may not succeed.
            (delivered, execution.is_undecided())
        });
        match delivered {
            Some((Delivered::HandOut, _)) => {
                let expires = stored.accepted().after(stored.timeout());
                let ack_id = Ack { id: id.to_string(), ack: ack.clone() }.encode();
                let command = stored.into_command(&kind.name);
                self.ready.push_back((ack, Handed { ack_id, attempt, command, expires }));
                Taken::HandedOut
            }
            Some((Delivered::End(ending), _)) => {
                drop(tokio::spawn(Arc::clone(&self.inner).end(id, ending)));
                Taken::Over
            }
            Some((Delivered::Ignore, true)) => Taken::Unknown,
            Some((Delivered::Ignore, false)) | None => Taken::Over,
        }
    }

    /// Settles what cannot be read: it would come again for ever.
    fn discard(&self, kind: &Arc<Type>, ack: Bytes) {
        let (inner, kind) = (Arc::clone(&self.inner), Arc::clone(kind));
        tokio::spawn(async move {
            let settlement = Settlement::Ack { cumulative: false };
            // Without an answer the lease runs out, and it comes again.
            drop(inner.engine.settle(&kind.commands, vec![ack], settlement).await);
        });
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        let held = self.holder.take();
        let (now, at) = (Instant::now(), Timestamp::now());
        for (id, ack) in held {
            self.inner.change(&id, |live| live.execution.release(&ack, now, at));
        }
    }
}
