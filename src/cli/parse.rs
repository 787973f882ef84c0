//! Values as they are written on the command line.

use std::collections::HashMap;
use std::time::Duration;

use bytesize::ByteSize;
use clap::ValueEnum;

use super::error::Error;
use crate::proto::v1::start_position::Position;
use crate::proto::v1::{self, Earliest, Latest, StartPosition};

/// How safe a message must be before it is acknowledged.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Durability {
    /// Handed to the operating system: survives a crash of the server, not of the machine
    Buffered,
    /// On the server's disk: survives a power loss
    Fsynced,
}

impl From<Durability> for v1::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Buffered => Self::Buffered,
            Durability::Fsynced => Self::Fsynced,
        }
    }
}

/// The number on the wire; the default where nothing was given.
pub(super) fn durability_number(durability: Option<Durability>) -> i32 {
    durability.map_or(v1::Durability::Unspecified, Into::into).into()
}

/// A place in a topic: `earliest`, `latest`, an offset, or a time as in RFC 3339.
pub(super) fn position(text: &str) -> Result<StartPosition, String> {
    let position = match text {
        "earliest" => Position::Earliest(Earliest {}),
        "latest" => Position::Latest(Latest {}),
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => match text.parse() {
            Ok(0) => return Err("offsets start at 1".into()),
            Ok(offset) => Position::Offset(offset),
            Err(error) => return Err(error.to_string()),
        },
        _ => Position::Time(time(text).map_err(|_| {
            "give earliest, latest, an offset such as 42, or a time such as 2026-01-31T12:00:00Z".to_owned()
        })?),
    };
    Ok(StartPosition { position: Some(position) })
}

/// A time as in RFC 3339.
pub(super) fn time(text: &str) -> Result<prost_types::Timestamp, String> {
    let time: jiff::Timestamp =
        text.parse().map_err(|_| "give a time such as 2026-01-31T12:00:00Z".to_owned())?;
    Ok(timestamp(time))
}

fn timestamp(time: jiff::Timestamp) -> prost_types::Timestamp {
    // Times before 1970 have a negative fraction here, and a positive one on the wire.
    let (seconds, nanos) = (time.as_second(), time.subsec_nanosecond());
    let (seconds, nanos) = if nanos < 0 { (seconds - 1, nanos + 1_000_000_000) } else { (seconds, nanos) };
    prost_types::Timestamp { seconds, nanos }
}

/// A time as in RFC 3339, or a span of time, which means so long ago.
pub(super) fn time_or_ago(text: &str) -> Result<prost_types::Timestamp, String> {
    match humantime::parse_duration(text) {
        Ok(ago) => {
            let time = std::time::SystemTime::now().checked_sub(ago).ok_or("that is too long ago")?;
            Ok(time.into())
        }
        Err(_) => time(text).map_err(|_| {
            "give a time such as 2026-01-31T12:00:00Z, or a span such as 1h, for so long ago".into()
        }),
    }
}

/// `name=value`; the value may be empty and may contain `=`.
pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("give NAME=VALUE".into()),
    }
}

/// Labels or attributes, each given once.
pub(super) fn key_values(flag: &str, pairs: Vec<(String, String)>) -> Result<HashMap<String, String>, Error> {
    let mut map = HashMap::with_capacity(pairs.len());
    for (key, value) in pairs {
        if let Some(first) = map.insert(key.clone(), value) {
            return Err(Error::Usage(format!(
                "{flag} {key} is given twice, first as {first:?}; give it once"
            )));
        }
    }
    Ok(map)
}

/// A span of time after which something is deleted; none for `never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expiry(pub(super) Option<Duration>);

impl std::str::FromStr for Expiry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "never" => Ok(Self(None)),
            _ => positive_duration(text).map(|duration| Self(Some(duration))),
        }
    }
}

/// A span of time, such as `30s` or `0s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; give a duration such as 500ms, 30s or 1h"))
}

/// A span of time above zero, such as `30s` or `1h 30m`.
pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("give more than zero".into()),
        duration => Ok(duration),
    }
}

/// A size, such as `10GiB`.
pub(super) fn large_size(text: &str) -> Result<u64, String> {
    let size: ByteSize = text.parse().map_err(|error| format!("{error}; give a size such as 10GiB"))?;
    Ok(size.as_u64())
}

/// The time after a span of time from now, such as `30s`.
pub(super) fn time_from_now(text: &str) -> Result<prost_types::Timestamp, String> {
    let time = jiff::Timestamp::now().checked_add(positive_duration(text)?);
    time.map(timestamp).map_err(|_| "that is too far ahead; give a shorter time".into())
}

/// A size that fits 32 bits, such as `65536` or `64KiB`.
pub(super) fn size(text: &str) -> Result<u32, String> {
    let size: ByteSize = text.parse().map_err(|error| format!("{error}; give a size such as 64KiB"))?;
    u32::try_from(size.as_u64()).map_err(|_| "give less than 4GiB".into())
}

/// Whether a text that stands for topics is a pattern over their names.
pub(super) fn is_pattern(topics: &str) -> bool {
    topics.contains(['*', '>'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions() {
        let parsed = |text| position(text).unwrap().position.unwrap();
        assert_eq!(parsed("earliest"), Position::Earliest(Earliest {}));
        assert_eq!(parsed("latest"), Position::Latest(Latest {}));
        assert_eq!(parsed("42"), Position::Offset(42));
        let time = |seconds, nanos| Position::Time(prost_types::Timestamp { seconds, nanos });
        assert_eq!(parsed("1970-01-01T00:00:01.5Z"), time(1, 500_000_000));
        assert_eq!(parsed("1970-01-01T01:00:00+01:00"), time(0, 0));
        assert_eq!(parsed("1969-12-31T23:59:59.25Z"), time(-1, 250_000_000));
        for bad in ["", "0", "-1", "1.5", "99999999999999999999", "now", "2026-01-31", "2026-01-31T12:00:00"]
        {
            assert!(position(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_or_spans() {
        let time = prost_types::Timestamp { seconds: 1, nanos: 0 };
        assert_eq!(time_or_ago("1970-01-01T00:00:01Z"), Ok(time));
        let now = prost_types::Timestamp::from(std::time::SystemTime::now()).seconds;
        let ago = time_or_ago("1h 30m").unwrap().seconds;
        assert!((now - 5_400 - ago).abs() < 60, "{now} {ago}");
        for bad in ["", "yesterday", "-1h", "2026-01-31"] {
            assert!(time_or_ago(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn pairs() {
        assert_eq!(key_value("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(key_value("a="), Ok(("a".into(), String::new())));
        assert!(key_value("a").is_err());
        assert!(key_value("=b").is_err());
        let twice = vec![("a".into(), "1".into()), ("a".into(), "2".into())];
        assert!(matches!(key_values("--label", twice), Err(Error::Usage(_))));
    }

    #[test]
    fn durations_and_sizes() {
        assert_eq!(positive_duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(positive_duration("0s").is_err());
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert!(duration("").is_err());
        assert!(positive_duration("30").is_err());
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!("never".parse(), Ok(Expiry(None)));
        assert_eq!("1h".parse(), Ok(Expiry(Some(Duration::from_hours(1)))));
        assert!("0s".parse::<Expiry>().is_err());
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("1000"), Ok(1000));
        assert!(size("4GiB").is_err());
        assert!(size("-1").is_err());
    }
}
