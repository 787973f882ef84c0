//! kill -9 at random moments under load, against a ledger outside the server.
//!
//! The ledger is written only after a receipt has arrived, so whatever it holds must still be there at
//! the end. What the same test finds on a disk that does not sync is shown on a simulated disk, in
//! `src/embedded/tests/crash.rs`: a killed process does not take the page cache with it.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

#[path = "common/process.rs"]
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use columba::proto::v1::publisher_service_client::PublisherServiceClient;
use columba::proto::v1::start_position::Position;
use columba::proto::v1::subscribe_request::Target;
use columba::proto::v1::subscribe_response::Event;
use columba::proto::v1::subscriber_service_client::SubscriberServiceClient;
use columba::proto::v1::subscription_service_client::SubscriptionServiceClient;
use columba::proto::v1::topic_service_client::TopicServiceClient;
use columba::proto::v1::{
    AckFailureReason, AckRequest, CreateSubscriptionRequest, CreateTopicRequest, Delivery,
    GetSubscriptionStatsRequest, GetTopicRequest, Message, PublishRequest, PullRequest, ReadMessagesRequest,
    StartPosition, SubscribeRequest, Subscription, Topic,
};
use process::ServerProcess;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

const KILLS: u64 = 20;
const TOPICS: [&str; 2] = ["orders", "payments"];
const SUBSCRIPTION: &str = "billing";
const PRODUCERS_PER_TOPIC: usize = 2;
const CONSUMERS: usize = 3;
/// How long anything may take that should happen soon.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the outside world knows.
#[derive(Default)]
struct Entries {
    /// The data of acknowledged messages, by topic and offset.
    published: BTreeMap<(&'static str, u64), Vec<u8>>,
    /// Acks that were asked for, whether or not an answer came.
    asked: BTreeSet<u64>,
    /// Acks that the server has confirmed, and how often it had been killed then.
    confirmed: BTreeMap<u64, u64>,
    kills: u64,
    deliveries: u64,
    wrong: Vec<String>,
}

/// What all tasks share.
#[derive(Clone)]
struct World {
    ledger: Arc<Mutex<Entries>>,
    /// How many messages are in the ledger.
    published: Arc<watch::Sender<usize>>,
    channel: Channel,
    /// How often the server has been started; 0 once the load is to end.
    starts: watch::Receiver<u64>,
}

impl World {
    fn ledger(&self) -> MutexGuard<'_, Entries> {
        self.ledger.lock().unwrap()
    }

    /// Waits for the next start of the server after a call has failed; `false` at the end.
    async fn revived(&mut self) -> bool {
        self.starts.changed().await.is_ok() && *self.starts.borrow_and_update() > 0
    }

    fn ended(&self) -> bool {
        *self.starts.borrow() == 0
    }

    async fn produce(mut self, topic: &'static str, producer: usize) {
        let mut client = PublisherServiceClient::new(self.channel.clone());
        let mut random = StdRng::seed_from_u64(producer as u64);
        for round in 0.. {
            if self.ended() {
                return;
            }
            let texts = (0..random.random_range(1..8)).map(|n| {
                let padding = "x".repeat(random.random_range(0..2_000));
                format!("{producer}/{round}/{n}/{padding}").into_bytes()
            });
            let data: Vec<_> = texts.collect();
            let message = |data: &Vec<u8>| Message { data: data.clone().into(), ..Message::default() };
            let messages = data.iter().map(message).collect();
            let request =
                PublishRequest { topic: topic.into(), messages, durability: 0, ..PublishRequest::default() };
            match client.publish(request).await {
                Ok(receipt) => {
                    let first = receipt.into_inner().first_offset;
                    let entries = (first..).zip(data).map(|(offset, data)| ((topic, offset), data));
                    let mut ledger = self.ledger();
                    ledger.published.extend(entries);
                    self.published.send_replace(ledger.published.len());
                }
                // Whether it is stored is unknown, and either is right.
                Err(_) => {
                    if !self.revived().await {
                        return;
                    }
                }
            }
        }
    }

    async fn consume(mut self, consumer: usize) {
        let mut end = self.starts.clone();
        loop {
            tokio::select! {
                // Its error is the death of the server; what it held is redelivered.
                _ = self.stream(consumer) => {}
                _ = end.wait_for(|&starts| starts == 0) => return,
            }
            if !self.revived().await {
                return;
            }
        }
    }

    async fn stream(&self, consumer: usize) -> Result<(), Status> {
        let mut client = SubscriberServiceClient::new(self.channel.clone());
        let request = SubscribeRequest {
            target: Some(Target::Subscription(SUBSCRIPTION.into())),
            consumer: format!("consumer-{consumer}"),
            max_outstanding_messages: 50,
            ..SubscribeRequest::default()
        };
        let opened = self.ledger().kills;
        let mut events = client.subscribe(request).await?.into_inner();
        while let Some(event) = events.message().await? {
            if let Some(Event::Batch(batch)) = event.event {
                self.acknowledge(&mut client, batch.deliveries, opened).await?;
            }
        }
        Ok(())
    }

    async fn acknowledge(
        &self,
        client: &mut SubscriberServiceClient<Channel>,
        deliveries: Vec<Delivery>,
        opened: u64,
    ) -> Result<(), Status> {
        let (offsets, ack_ids) = self.delivered(deliveries, opened);
        let request = AckRequest { subscription: SUBSCRIPTION.into(), ack_ids, cumulative: false };
        let failures = client.ack(request.clone()).await?.into_inner().failures;
        let mut ledger = self.ledger();
        if failures.iter().any(|failure| failure.reason() != AckFailureReason::Expired) {
            ledger.wrong.push(format!("acks failed: {failures:?}"));
        }
        let failed: BTreeSet<_> = failures.into_iter().map(|failure| failure.ack_id).collect();
        let confirmed = offsets.into_iter().zip(request.ack_ids).filter(|(_, id)| !failed.contains(id));
        let kills = ledger.kills;
        ledger.confirmed.extend(confirmed.map(|(offset, _)| (offset, kills)));
        Ok(())
    }

    /// Writes deliveries down, of a stream that was opened after so many kills; returns their offsets and ack
    /// ids. What was on its way when the server was killed may be read long after, when somebody else has
    /// confirmed it to the next server: it was not delivered then.
    fn delivered(&self, deliveries: Vec<Delivery>, opened: u64) -> (Vec<u64>, Vec<bytes::Bytes>) {
        let mut ledger = self.ledger();
        ledger.deliveries += deliveries.len() as u64;
        let mut pairs = Vec::new();
        for delivery in deliveries {
            let stored = delivery.message.unwrap();
            if ledger.confirmed.get(&stored.offset).is_some_and(|&kills| kills <= opened) {
                ledger.wrong.push(format!("{} was delivered after its ack was confirmed", stored.offset));
            }
            let data = stored.message.unwrap_or_default().data;
            if ledger.published.get(&(TOPICS[0], stored.offset)).is_some_and(|known| *known != data) {
                ledger.wrong.push(format!("{} was delivered with other content", stored.offset));
            }
            pairs.push((stored.offset, delivery.ack_id));
        }
        ledger.asked.extend(pairs.iter().map(|(offset, _)| *offset));
        pairs.into_iter().unzip()
    }

    /// Compares a topic with the ledger.
    async fn check_topic(&self, topic: &'static str) {
        let stored = self.read_all(topic).await;
        let mut ledger = self.ledger();
        let Entries { published, wrong, .. } = &mut *ledger;
        if !stored.keys().copied().eq(1..=stored.len() as u64) {
            wrong.push(format!("the offsets of {topic} have gaps"));
        }
        for ((_, offset), data) in published.range((topic, 0)..=(topic, u64::MAX)) {
            if stored.get(offset) != Some(data) {
                wrong.push(format!("{topic} lost {offset}"));
            }
        }
        let once: BTreeSet<_> = stored.values().collect();
        if once.len() != stored.len() {
            wrong.push(format!("{} messages of {topic} are stored twice", stored.len() - once.len()));
        }
    }

    async fn read_all(&self, topic: &str) -> BTreeMap<u64, Vec<u8>> {
        let mut client =
            SubscriberServiceClient::new(self.channel.clone()).max_decoding_message_size(32 << 20);
        let mut stored = BTreeMap::new();
        let mut from = 1;
        loop {
            let start = Some(StartPosition { position: Some(Position::Offset(from)) });
            let request = ReadMessagesRequest { topic: topic.into(), start, max_messages: 0, max_bytes: 0 };
            let page = client.read_messages(request).await.unwrap().into_inner().messages;
            let Some(last) = page.last() else { return stored };
            from = last.offset + 1;
            stored.extend(page.into_iter().map(|stored| {
                let data = stored.message.unwrap_or_default().data;
                (stored.offset, data.to_vec())
            }));
        }
    }

    /// Compares what the subscription has left with the ledger, and takes it to its end.
    async fn check_subscription(&self) {
        let floor = self.committed().await;
        let not_asked = (1..=floor).filter(|offset| !self.ledger().asked.contains(offset)).count();
        if not_asked > 0 {
            self.ledger().wrong.push(format!("{not_asked} messages below the floor were never acknowledged"));
        }
        let mut client =
            SubscriberServiceClient::new(self.channel.clone()).max_decoding_message_size(32 << 20);
        loop {
            let request = PullRequest { subscription: SUBSCRIPTION.into(), ..PullRequest::default() };
            let deliveries = client.pull(request).await.unwrap().into_inner().deliveries;
            if deliveries.is_empty() {
                break;
            }
            let kills = self.ledger().kills;
            self.acknowledge(&mut client, deliveries, kills).await.unwrap();
        }
        let request = GetTopicRequest { topic: TOPICS[0].into() };
        let topic = TopicServiceClient::new(self.channel.clone()).get_topic(request).await.unwrap();
        let last = topic.into_inner().topic.unwrap().last_offset;
        let (committed, seen) = (self.committed().await, self.ledger().confirmed.len() as u64);
        if committed != last {
            self.ledger().wrong.push(format!("{committed} of {last} are committed at the end"));
        }
        assert!(seen > 0 && seen <= last);
    }

    async fn committed(&self) -> u64 {
        let mut client = SubscriptionServiceClient::new(self.channel.clone());
        let request = GetSubscriptionStatsRequest { subscription: SUBSCRIPTION.into() };
        let stats = client.get_subscription_stats(request).await.unwrap().into_inner().stats;
        stats.unwrap().committed_offset
    }
}

async fn create(channel: &Channel) {
    for topic in TOPICS {
        let topic = Topic { name: topic.into(), ..Topic::default() };
        let request = CreateTopicRequest { topic: Some(topic), validate_only: false };
        TopicServiceClient::new(channel.clone()).create_topic(request).await.unwrap();
    }
    let subscription =
        Subscription { name: SUBSCRIPTION.into(), topic: TOPICS[0].into(), ..Subscription::default() };
    let request = CreateSubscriptionRequest { subscription: Some(subscription), validate_only: false };
    SubscriptionServiceClient::new(channel.clone()).create_subscription(request).await.unwrap();
}

/// Waits until so many more messages are acknowledged than at the call.
async fn progress(world: &World, more: usize) {
    let mut published = world.published.subscribe();
    let goal = *published.borrow() + more;
    let reached = tokio::time::timeout(PATIENCE, published.wait_for(|&count| count >= goal)).await;
    reached.expect("the load goes on after a kill").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_server_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = ServerProcess::start(dir.path());
    // Reconnects by itself.
    let channel = Endpoint::from_shared(format!("http://{}", server.address)).unwrap().connect_lazy();
    create(&channel).await;
    let (starts, receiver) = watch::channel(1);
    let published = Arc::new(watch::Sender::new(0));
    let world = World { ledger: Arc::default(), published, channel, starts: receiver };
    let mut tasks = JoinSet::new();
    for topic in TOPICS {
        for producer in 0..PRODUCERS_PER_TOPIC {
            tasks.spawn(world.clone().produce(topic, producer));
        }
    }
    for consumer in 0..CONSUMERS {
        tasks.spawn(world.clone().consume(consumer));
    }

    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for kill in 1..=KILLS {
        progress(&world, random.random_range(1..600)).await;
        world.ledger().kills += 1;
        server.kill();
        if random.random_bool(0.3) {
            // Once more, while it recovers.
            server.start_and_kill(Duration::from_millis(random.random_range(0..50))).await;
            world.ledger().kills += 1;
        }
        server.restart();
        starts.send_replace(kill + 1);
    }
    progress(&world, 100).await;
    starts.send_replace(0);
    tokio::time::timeout(PATIENCE, tasks.join_all()).await.expect("the load ends");

    server.kill();
    server.restart();
    for topic in TOPICS {
        world.check_topic(topic).await;
    }
    world.check_subscription().await;
    let ledger = world.ledger();
    println!(
        "{KILLS} kills; {} messages and {} acks acknowledged, {} deliveries",
        ledger.published.len(),
        ledger.confirmed.len(),
        ledger.deliveries
    );
    assert!(ledger.wrong.is_empty(), "seed {seed}: {:#?}", ledger.wrong);
}
