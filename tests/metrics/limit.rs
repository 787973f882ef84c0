//! However many topics and subscriptions there are, a scrape tells of a limited number.

use columba::model::limits::MAX_METRIC_LABELS;
use columba::proto::v1::DeleteTopicRequest;

use crate::Server;

/// How many topics are beyond the limit.
const BEYOND: usize = 3;

fn topic(number: usize) -> String {
    format!("topic-{number:04}")
}

/// Makes all of them, each read by a subscription, with a message each.
async fn fill(server: &Server) {
    for number in 0..MAX_METRIC_LABELS + BEYOND {
        server.create_topic(&topic(number)).await;
        server.create_subscription(&topic(number), &topic(number)).await;
        server.publish(&topic(number), &["a"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_beyond_the_limit_are_told_together() {
    let server = Server::start().await;
    fill(&server).await;
    let published = "columba_topic_published_messages_total";
    let backlog = "columba_subscription_backlog_messages";
    let scrape = server.scrape().await;
    for (name, label) in [(published, "topic"), (backlog, "subscription")] {
        let series = scrape.series(name);
        assert_eq!(series.len(), MAX_METRIC_LABELS + 1, "{name}");
        assert_eq!(series[&*format!("{name}{{{label}=\"_other\"}}")], 3., "{name}");
        assert_eq!(series[&*format!("{name}{{{label}=\"topic-0007\"}}")], 1., "{name}");
    }
    assert_eq!(scrape.value("columba_topics"), 503.);
    assert_eq!(scrape.value("columba_subscriptions"), 503.);

    // The last two go: what they counted stays. A place that gets free is for the next new one.
    let last = MAX_METRIC_LABELS + BEYOND - 1;
    for gone in [last, last - 1, 7] {
        let request =
            columba::proto::v1::DeleteSubscriptionRequest { subscription: topic(gone), ..Default::default() };
        server.subscriptions().delete_subscription(request).await.unwrap();
        let request = DeleteTopicRequest { topic: topic(gone), ..DeleteTopicRequest::default() };
        server.topics().delete_topic(request).await.unwrap();
    }
    let freed = |scrape: &crate::Scrape| scrape.find("columba_topic_stored_bytes{topic=\"topic-0007\"}");
    assert!(freed(&server.scrape().await).is_none());
    server.create_topic("new").await;
    server.publish("new", &["a", "b"]).await;
    let scrape = server.scrape().await;
    assert_eq!(scrape.value(&format!("{published}{{topic=\"new\"}}")), 2.);
    assert_eq!(scrape.value(&format!("{published}{{topic=\"_other\"}}")), 3.);
    assert_eq!(scrape.value(&format!("{backlog}{{subscription=\"_other\"}}")), 1.);
    assert_eq!(scrape.series(published).len(), MAX_METRIC_LABELS + 1);
}
