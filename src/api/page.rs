//! Pages of lists: the token of the next page, and what it may be used for.

use std::fmt::Write as _;
use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::validate::Violations;
use crate::engine::Page;
use crate::model::Name;
use crate::model::limits::{DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE};

/// Hexadecimal digits of the query's fingerprint in a token.
const FINGERPRINT_DIGITS: usize = 16;
pub(super) const BAD_TOKEN: &str = "is not a token of this list; give the `next_page_token` of the previous page, with \
                         the same filter, or leave it empty to begin again";

/// What it takes to cut an engine's answer to the page that was asked for.
pub(super) struct Cut {
    size: usize,
    fingerprint: u64,
}

/// Reads the paging fields of a list request. `query` holds everything else that decides which
/// entries the list has: a token works only for the query that it came from.
///
/// The page for the engine holds one entry more than was asked for, to see whether more follow.
pub(super) fn read(
    violations: &mut Violations,
    page_size: u32,
    page_token: &str,
    filter: &str,
    query: &[&str],
) -> Option<(Page, Cut)> {
    let fingerprint = fingerprint(filter, query);
    let asked = usize::try_from(page_size).unwrap_or(usize::MAX);
    let size = violations.count("page_size", asked, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE);
    let pattern = violations.pattern("filter", filter);
    let after = match decode(page_token, fingerprint) {
        _ if page_token.is_empty() => None,
        Some(name) => Some(name),
        None => violations.refuse("page_token", "INVALID_PAGE_TOKEN", BAD_TOKEN),
    };
    let size = size?;
    Some((Page { after, limit: size + 1, pattern }, Cut { size, fingerprint }))
}

impl Cut {
    /// Cuts the engine's answer, and returns the token of the next page: empty on the last.
    pub(super) fn apply<T>(self, entries: &mut Vec<T>, name: impl Fn(&T) -> &Name) -> String {
        if entries.len() <= self.size {
            return String::new();
        }
        entries.truncate(self.size);
        entries.last().map_or_else(String::new, |last| encode(self.fingerprint, name(last).as_str()))
    }
}

/// Where a page of a list begins that goes by numbers, and what makes the next token.
pub(super) struct Numbered {
    /// The first number that may be on the page; 0 on the first page.
    pub(super) next: u64,
    /// At most so many entries.
    pub(super) size: usize,
    fingerprint: u64,
}

/// Reads the paging fields of a request for a list that goes by numbers, with the rules of [`read`].
pub(super) fn read_numbered(
    violations: &mut Violations,
    page_size: u32,
    page_token: &str,
    query: &[impl AsRef<str>],
) -> Option<Numbered> {
    let query: Vec<&str> = query.iter().map(AsRef::as_ref).collect();
    let fingerprint = fingerprint("", &query);
    let asked = usize::try_from(page_size).unwrap_or(usize::MAX);
    let size = violations.count("page_size", asked, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE);
    let next = match decode(page_token, fingerprint).and_then(|number| number.as_str().parse().ok()) {
        _ if page_token.is_empty() => Some(0),
        Some(next) => Some(next),
        None => violations.refuse("page_token", "INVALID_PAGE_TOKEN", BAD_TOKEN),
    };
    Some(Numbered { next: next?, size: size?, fingerprint })
}

impl Numbered {
    /// The token of a page that begins with this number.
    pub(super) fn token(&self, next: u64) -> String {
        encode(self.fingerprint, &next.to_string())
    }
}

/// Where a page of a list begins that goes by names, and by numbers in each, and what makes the next token.
pub(super) struct Placed {
    /// The first place that may be on the page; `None` on the first page.
    pub(super) from: Option<(Name, u64)>,
    /// At most so many entries.
    pub(super) size: usize,
    fingerprint: u64,
}

/// Reads the paging fields of a request for a list that goes by names and numbers, with the rules of [`read`].
pub(super) fn read_placed(
    violations: &mut Violations,
    page_size: u32,
    page_token: &str,
    query: &[&str],
) -> Option<Placed> {
    let fingerprint = fingerprint("", query);
    let asked = usize::try_from(page_size).unwrap_or(usize::MAX);
    let size = violations.count("page_size", asked, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE);
    let place = |text: String| {
        let (name, number) = text.rsplit_once('.')?;
        Some((Name::parse(name).ok()?, number.parse().ok()?))
    };
    let from = match decode_text(page_token, fingerprint).and_then(place) {
        _ if page_token.is_empty() => None,
        Some(place) => Some(place),
        None => violations.refuse("page_token", "INVALID_PAGE_TOKEN", BAD_TOKEN),
    };
    Some(Placed { from, size: size?, fingerprint })
}

impl Placed {
    /// The token of a page that begins at this place.
    pub(super) fn token(&self, (name, number): &(Name, u64)) -> String {
        encode(self.fingerprint, &format!("{name}.{number}"))
    }
}

/// What tells a query from others.
pub(super) fn fingerprint(filter: &str, query: &[&str]) -> u64 {
    let mut hasher = SipHasher13::new();
    for part in query.iter().chain([&filter]) {
        hasher.write_usize(part.len());
        hasher.write(part.as_bytes());
    }
    hasher.finish()
}

fn encode(fingerprint: u64, last: &str) -> String {
    let mut token = format!("{fingerprint:016x}");
    for byte in last.bytes() {
        let _ = write!(token, "{byte:02x}");
    }
    token
}

fn decode(token: &str, fingerprint: u64) -> Option<Name> {
    Name::parse(&decode_text(token, fingerprint)?).ok()
}

fn decode_text(token: &str, fingerprint: u64) -> Option<String> {
    let (given, name) = token.split_at_checked(FINGERPRINT_DIGITS)?;
    if u64::from_str_radix(given, 16) != Ok(fingerprint) || !name.len().is_multiple_of(2) {
        return None;
    }
    let name =
        name.as_bytes().chunks(2).map(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
    String::from_utf8(name.collect::<Option<_>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_works_for_its_own_query_only() {
        let name = Name::parse("orders.eu").unwrap();
        let query = fingerprint("orders.*", &["topics"]);
        let token = encode(query, name.as_str());
        assert_eq!(decode(&token, query), Some(name));
        assert_eq!(decode(&token, fingerprint("orders.>", &["topics"])), None);
        assert_eq!(decode(&token, fingerprint("orders.*", &["subscriptions"])), None);
    }

    #[test]
    fn refuses_what_is_no_token() {
        let query = fingerprint("", &[]);
        for bad in ["x", "é", &format!("{query:016x}"), &format!("{query:016x}6"), &format!("{query:016x}zz")]
        {
            assert_eq!(decode(bad, query), None, "{bad:?}");
        }
    }
}
