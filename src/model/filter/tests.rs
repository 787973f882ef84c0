//! Filters as a whole: what they say of messages, and what is no filter.

use std::collections::HashMap;

use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::model::limits::{MAX_FILTER_BYTES, MAX_FILTER_DEPTH, MAX_FILTER_JSON_VALUES};
use crate::model::{Envelope, Name, StoredMessage, Timestamp};
use crate::proto::v1::Message;

fn stored(message: &Message) -> StoredMessage {
    StoredMessage {
        topic: Name::parse("orders.eu").unwrap(),
        offset: 7,
        publish_time: Timestamp(1_700_000_000_000_000),
        envelope: Envelope(message.encode_to_vec().into()),
    }
}

fn order() -> Message {
    Message {
        data: r#"{"total": 12.5, "items": [{"id": 1, "tags": ["a"]}, {"id": 2, "tags": []}], "note": null}"#
            .into(),
        key: "order-1".into(),
        attributes: [("region", "eu"), ("tier", "3")].map(|(name, value)| (name.into(), value.into())).into(),
        id: "id-1".into(),
        r#type: "order.created".into(),
        content_type: "application/json".into(),
        correlation_id: "talk".into(),
        causation_id: "cause".into(),
        ..Message::default()
    }
}

fn decide(text: &str, message: &Message, attempt: u32) -> Result<bool, Unclear> {
    let stored = stored(message);
    Filter::parse(text)
        .unwrap_or_else(|error| panic!("{text}: {error}"))
        .decide(&Facts::new(&stored, attempt))
}

fn refused(text: &str) -> FilterError {
    Filter::parse(text).expect_err(text)
}

fn refused_at(text: &str) -> (usize, usize, String) {
    match refused(text) {
        FilterError::Invalid { line, column, message } => (line, column, message),
        other => panic!("{text}: {other}"),
    }
}

#[test]
fn sees_everything_that_it_should() {
    for text in [
        "message.key == 'order-1' && message.id == 'id-1' && message.type.startsWith('order.')",
        "message.content_type == 'application/json'",
        "message.correlation_id == 'talk' && message.causation_id.endsWith('se')",
        "message.attributes.region == 'eu' && message.attributes['tier'] == '3'",
        "'region' in message.attributes && !('other' in message.attributes)",
        "has(message.attributes.region) && !has(message.attributes.other)",
        "size(message.attributes) == 2 && message.attributes.exists(name, name.contains('gio'))",
        "message.attributes.all(name, message.attributes[name] != '')",
        "int(message.attributes.tier) > 2",
        "message.data_json.total > 12 && message.data_json.note == null",
        "message.data_json.items.exists(item, item.id == 2) && size(message.data_json.items) == 2",
        "message.data_json.items.exists_one(item, item.tags.exists(tag, tag == 'a'))",
        "topic == 'orders.eu' && offset == 7 && attempt == 2",
        "publish_time > timestamp('2023-11-14T00:00:00Z') && publish_time.getFullYear() == 2023",
        "message.key in ['order-1', 'order-2'] ? true : false",
        "message.attributes.absent == 'x' || topic == 'orders.eu'",
        "message\n  .key != ''  // what has a key",
    ] {
        assert_eq!(decide(text, &order(), 2), Ok(true), "{text}");
        assert_eq!(decide(&format!("!({text}\n)"), &order(), 2), Ok(false), "not {text}");
    }
}

#[test]
fn what_it_cannot_decide_does_not_match() {
    let absent = "message.attributes.absent == 'x'";
    assert_eq!(decide(absent, &order(), 1), Err(Unclear::Absent));
    assert_eq!(decide(&format!("!({absent})"), &order(), 1), Err(Unclear::Absent));
    assert!(decide("message.data_json.total.x == 1", &order(), 1).is_err());
    assert!(matches!(decide("int(message.key) == 1", &order(), 1), Err(Unclear::Failed(_))));
    assert_eq!(decide("message.data_json.items", &order(), 1), Err(Unclear::NotBool("list".into())));
    let stored = stored(&order());
    assert!(!Filter::parse(absent).unwrap().matches(&Facts::new(&stored, 1)));
    assert!(Filter::default().matches(&Facts::new(&stored, 1)));
}

#[test]
fn data_that_is_no_json_or_too_much_of_it_is_null() {
    let with = |data: String| Message { data: data.into(), ..Message::default() };
    let is_null = |data: String| decide("message.data_json == null", &with(data), 1);
    assert_eq!(is_null("{".into()), Ok(true));
    assert_eq!(is_null(String::new()), Ok(true));
    assert_eq!(is_null(format!("\"{}\"", "x".repeat(64 << 10))), Ok(true));
    assert_eq!(is_null(format!("\"{}\"", "x".repeat((64 << 10) - 2))), Ok(false));
    let list = |items: usize| format!("[{}]", vec!["1"; items].join(","));
    assert_eq!(is_null(list(MAX_FILTER_JSON_VALUES)), Ok(true));
    assert_eq!(is_null(list(MAX_FILTER_JSON_VALUES - 1)), Ok(false));
    assert_eq!(is_null("[".repeat(10_000)), Ok(true));
}

#[test]
fn the_last_of_two_attributes_counts() {
    let one = |value: &str| Message { attributes: [("a".into(), value.into())].into(), ..Message::default() };
    let both = [one("first").encode_to_vec(), one("second").encode_to_vec()].concat();
    let message = StoredMessage { envelope: Envelope(both.into()), ..stored(&Message::default()) };
    let filter = Filter::parse("message.attributes.a == 'second' && size(message.attributes) == 1").unwrap();
    assert!(filter.matches(&Facts::new(&message, 1)));
}

#[test]
fn mistakes_are_named_with_their_place() {
    let end = "the expression ends too early".to_owned();
    assert_eq!(refused_at("message.key =="), (1, 15, end));
    let (line, column, message) = refused_at("message.key == 'a' &&\n  && true");
    assert_eq!((line, column), (2, 3), "{message}");
    assert!(message.contains("'&&'"), "{message}");
    let (line, column, message) = refused_at("message.key == 'é' &&\n mesage.key == 'a'");
    assert_eq!((line, column), (2, 2), "{message}");
    assert!(message.contains("no mesage; use message, topic"), "{message}");
    for (text, column, says) in [
        ("topic == 'é' && && true", 17, "'&&'"),
        ("message.keys == 'a'", 8, "message has no keys; use key"),
        ("message == 'a'", 1, "use one of its fields"),
        ("has(message.key)", 4, "compare it"),
        ("frob(message.key)", 5, "no function frob"),
        ("message.key.matches('a+')", 20, "contains"),
        ("message.attributes.map(name, name) == []", 23, "use exists or all"),
        ("[1].exists(topic, topic == 1)", 11, "has a meaning already"),
        ("message.key in {'a': 1}", 16, "use a list"),
    ] {
        let (line, found, message) = refused_at(text);
        assert!(line == 1 && message.contains(says), "{text}: {message}");
        assert_eq!(found, column, "{text}: {message}");
    }
}

#[test]
fn what_yields_no_decision_is_refused_where_that_shows() {
    assert_eq!(refused("message.key"), FilterError::NotBool("string".into()));
    assert_eq!(refused("1"), FilterError::NotBool("int".into()));
    assert_eq!(refused("size(message.attributes)"), FilterError::NotBool("int".into()));
    assert!(matches!(refused("message.key > 5"), FilterError::Types(_)));
    assert!(matches!(refused("offset + 'a' == 'b'"), FilterError::Types(_)));
    assert!(matches!(refused("message.key.startsWith(1)"), FilterError::Types(_)));
}

#[test]
fn what_may_be_slow_is_refused() {
    let long = format!("message.key == '{}'", "x".repeat(MAX_FILTER_BYTES));
    assert_eq!(refused(&long), FilterError::TooLong(long.len()));
    for text in [
        // Every item of a list compared with every item of another.
        "message.data_json.a.exists(x, message.data_json.b.exists(y, x == y))".to_owned(),
        // Longer and longer texts.
        format!("(message.data_json.a{}) == 'x'", " + message.data_json.a".repeat(10)),
        // The same text looked through again and again.
        format!("true{}", " && !message.data_json.a.contains('xy')".repeat(20)),
    ] {
        assert!(matches!(refused(&text), FilterError::TooCostly(cost) if cost > 1_000_000), "{text}");
    }
}

/// On a thread with half the stack of those that evaluate filters.
fn on_a_small_stack<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::Builder::new().stack_size(1 << 20).spawn(run).unwrap().join().unwrap()
}

#[test]
fn nesting_is_limited_before_it_overflows_the_stack() {
    let nest = |open: &str, inner: &str, close: &str, depth: usize| {
        format!("{}{inner}{}", open.repeat(depth), close.repeat(depth))
    };
    let chain = |first: &str, rest: &str, length: usize| format!("{first}{}", rest.repeat(length));
    for length in [20, 100, 1_000] {
        for text in [
            nest("(", "true", ")", length),
            nest("[", "1", "]", length) + " == []",
            nest("size(", "'a'", ")", length) + " == 1",
            nest("{1:", "1", "}", length) + " == 1",
            nest("[1].exists(x,", "true", ")", length),
            chain("true", " ? true : true", length),
            chain("1", "+1", length) + " == 2",
            chain("topic", "[0]", length) + " == 'a'",
            chain("topic", ".size()", length) + " == 1",
            "(".repeat(length),
            "[".repeat(length),
            "!(".repeat(length),
        ] {
            let shown = text.clone();
            let parsed = on_a_small_stack(move || Filter::parse(&text).map(|_| ()));
            // Parentheses are no part of the expression, but the parser has to go through them.
            assert!(parsed.is_err() || (length == 20 && shown.starts_with("((")), "{shown}: {parsed:?}");
        }
    }
    // As deep as is allowed: the comparison, the sums, and the first number.
    let deepest = chain("1", "+1", MAX_FILTER_DEPTH - 2) + " == 15";
    assert_eq!(on_a_small_stack(move || decide(&deepest, &order(), 1)), Ok(true));
    let too_deep = chain("1", "+1", MAX_FILTER_DEPTH - 1) + " == 16";
    assert!(refused_at(&too_deep).2.contains("nested"));
    // Long, and not deep.
    let wide = chain("topic == 'a'", " || topic == 'a'", 100);
    assert_eq!(decide(&wide, &order(), 1), Ok(false));
}

#[test]
fn a_text_that_is_stored_is_kept_whatever_it_is() {
    let filter = Filter::stored("what(ever");
    assert_eq!(filter.text(), "what(ever");
    assert!(matches!(filter.error(), Some(FilterError::Invalid { .. })));
    assert!(!filter.matches(&Facts::new(&stored(&order()), 1)));
    assert_eq!(filter, Filter::stored("what(ever"));
    assert!(Filter::stored("").is_empty());
}

proptest! {
    #[test]
    fn no_text_breaks_the_parser(text in "\\PC{0,60}") {
        let _ = Filter::parse(&text);
    }

    /// Closer to what is a filter, so that more of it is looked at.
    #[test]
    fn no_pieces_of_expressions_break_the_parser(pieces in prop::collection::vec(prop::sample::select(vec![
        "message", ".key", ".attributes", ".data_json", "topic", "offset", "x", "(", ")", "[", "]", "{", "}", ",",
        ".exists(", ".all(", ".map(", "has(", "size(", "?", ":", "&&", "||", "!", "==", "in", "+", "-", "/", "%",
        "1", "1.5", "2u", "0x", "9223372036854775808", "'a'", "\"", "'", "b'x'", "r'", "true", "null", "//", "\n",
        "`a`", ".?a", "timestamp(", "duration('1h')", "\\", "é", "'''",
    ]), 0..24)) {
        for separator in ["", " "] {
            if let Ok(filter) = Filter::parse(&pieces.join(separator)) {
                let _ = filter.decide(&Facts::new(&stored(&order()), 1));
            }
        }
    }

    #[test]
    fn agrees_with_a_predicate(
        key in "[ab]{0,2}",
        attributes in prop::collection::hash_map("[abc]", "[0-9]{1,3}", 0..4),
        total in prop::option::of(-5i64..5),
        attempt in 1u32..4,
        (wanted_key, name, value, least) in ("[ab]{0,2}", "[abc]", "[0-9]{1,3}", -5i64..5),
    ) {
        let data = total.map_or(Vec::new(), |total| format!(r#"{{"total":{total}}}"#).into_bytes());
        let message = Message { data: data.into(), key: key.clone(), attributes: attributes.clone(), ..Message::default() };
        let has = |value: &str, attributes: &HashMap<String, String>| attributes.get(&name).map(|it| it == value);
        let cases = [
            (format!("message.key == '{wanted_key}'"), Some(key == wanted_key)),
            (format!("message.key.contains('{wanted_key}')"), Some(key.contains(&wanted_key))),
            (format!("message.attributes.{name} == '{value}'"), has(&value, &attributes)),
            (format!("has(message.attributes.{name})"), Some(attributes.contains_key(&name))),
            (format!("message.attributes.exists(n, n < '{name}')"), Some(attributes.keys().any(|it| *it < name))),
            (format!("message.attributes.all(n, int(message.attributes[n]) < {})", value.len() * 100),
                Some(attributes.values().all(|it| it.parse::<usize>().unwrap() < value.len() * 100))),
            (format!("message.data_json.total >= {least}"), total.map(|total| total >= least)),
            (format!("message.data_json != null && attempt > {}", least.abs()),
                Some(total.is_some() && i64::from(attempt) > least.abs())),
            (format!("message.attributes.{name} == '{value}' || message.key == '{wanted_key}'"),
                match (has(&value, &attributes), key == wanted_key) {
                    (Some(true), _) | (_, true) => Some(true),
                    (Some(false), false) => Some(false),
                    (None, false) => None,
                }),
        ];
        for (text, expected) in cases {
            prop_assert_eq!(decide(&text, &message, attempt).ok(), expected, "{}", text);
        }
    }
}
