//! Tokens that clients hand back: of the next page, and of where a watch was. Each begins with the
//! fingerprint of the query that it works for.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::cqrs::views::{Mark, Score, Seen};

/// Where a list goes on after an entry.
pub(super) fn of_mark(fingerprint: u64, mark: &Mark) -> String {
    let score = mark.score.map_or_else(Vec::new, |score| score.number().to_be_bytes().to_vec());
    let length = u8::try_from(score.len()).expect("8 or none");
    encode(fingerprint, &[&[length], score.as_slice(), mark.key.as_bytes()].concat())
}

pub(super) fn mark(token: &str, fingerprint: u64) -> Option<Mark> {
    let content = decode(token, fingerprint)?;
    let (&length, rest) = content.split_first()?;
    let (score, key) = rest.split_at_checked(length.into())?;
    let score = match score {
        [] => None,
        bytes => Some(Score::new(f64::from_be_bytes(bytes.try_into().ok()?))?),
    };
    Some(Mark { score, key: str::from_utf8(key).ok()?.into() })
}

/// Where a history goes on after a revision.
pub(super) fn of_revision(fingerprint: u64, revision: u64) -> String {
    encode(fingerprint, &revision.to_be_bytes())
}

pub(super) fn revision(token: &str, fingerprint: u64) -> Option<u64> {
    Some(u64::from_be_bytes(decode(token, fingerprint)?.try_into().ok()?))
}

/// Where a watch goes on.
pub(super) fn of_seen(fingerprint: u64, Seen { life, changes }: Seen) -> String {
    encode(fingerprint, &[life.to_be_bytes(), changes.to_be_bytes()].concat())
}

pub(super) fn seen(token: &str, fingerprint: u64) -> Option<Seen> {
    let content = decode(token, fingerprint)?;
    let (life, changes) = content.split_first_chunk::<8>()?;
    let changes = u64::from_be_bytes(changes.try_into().ok()?);
    Some(Seen { life: u64::from_be_bytes(*life), changes })
}

/// Reads a token that may be left out: `None` only if it is bad.
#[expect(clippy::option_option, reason = "the outer one is what the checks go by")]
pub(super) fn optional<T>(token: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    if token.is_empty() { Some(None) } else { read(token).map(Some) }
}

fn encode(fingerprint: u64, content: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode([&fingerprint.to_be_bytes(), content].concat())
}

fn decode(token: &str, fingerprint: u64) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let content = bytes.strip_prefix(&fingerprint.to_be_bytes())?;
    Some(content.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_work_for_their_own_query_only() {
        for score in [None, Score::new(-1.5)] {
            let place = Mark { score, key: "é".into() };
            let token = of_mark(7, &place);
            assert_eq!(mark(&token, 7), Some(place));
            assert_eq!(mark(&token, 8), None);
        }
        assert_eq!(revision(&of_revision(7, 9), 7), Some(9));
        let place = Seen { life: 1, changes: 2 };
        assert_eq!(seen(&of_seen(7, place), 7), Some(place));
        for bad in ["", "x", "é", &encode(7, b""), &encode(7, &[8, 1]), &encode(7, &[3, 1, 2, 3])] {
            assert_eq!((mark(bad, 7), revision(bad, 7), seen(bad, 7)), (None, None, None), "{bad:?}");
        }
    }
}
