//! What a filter costs for one message: `cargo bench --bench filter`.

use std::hint::black_box;
use std::time::Instant;

use columba::model::filter::Facts;
use columba::model::{Envelope, Filter, Name, StoredMessage, Timestamp};
use columba::proto::v1::Message;
use prost::Message as _;

const MESSAGES: u32 = 200_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let attributes =
        [("region", "eu"), ("tier", "3"), ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-01")];
    let message = Message {
        data: format!(r#"{{"total": 12.5, "note": "{}"}}"#, "x".repeat(1_000)).into(),
        key: "order-1".into(),
        attributes: attributes.map(|(name, value)| (name.into(), value.into())).into(),
        r#type: "order.created".into(),
        ..Message::default()
    };
    let stored = StoredMessage {
        topic: Name::parse("orders.created")?,
        offset: 1,
        publish_time: Timestamp::now(),
        envelope: Envelope(message.encode_to_vec().into()),
    };
    for text in [
        "message.type == 'order.created'",
        "message.attributes.region == 'eu'",
        "message.attributes.absent == 'eu'",
        "message.attributes.region == 'eu' && message.key.startsWith('order-') && int(message.attributes.tier) > 2",
        "message.attributes.exists(name, name.startsWith('trace'))",
        "message.data_json.total > 10",
    ] {
        let filter = Filter::parse(text)?;
        let begun = Instant::now();
        for _ in 0..MESSAGES {
            black_box(filter.matches(&Facts::new(black_box(&stored), 1)));
        }
        println!("{:>6.0} ns  {text}", begun.elapsed().as_secs_f64() * 1e9 / f64::from(MESSAGES));
    }
    Ok(())
}
