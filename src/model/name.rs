//! Names of topics and subscriptions, and patterns over them.

use std::fmt;
use std::sync::Arc;

use super::limits::MAX_NAME_BYTES;

/// A valid name: `[A-Za-z0-9_-]+` parts joined by dots, at most 255 bytes. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("is empty; give a name such as orders.eu.created")]
    Empty,
    /// Over [`MAX_NAME_BYTES`].
    #[error("is {0} bytes long; at most {MAX_NAME_BYTES} are allowed")]
    TooLong(usize),
    /// A leading, trailing or doubled dot.
    #[error("{0:?} has an empty part; put exactly one dot between parts, and none at the ends")]
    EmptyPart(String),
    /// A character outside the set.
    #[error("{name:?} has {found:?} at byte {at}; use letters, digits, '_', '-', and '.' between parts")]
    BadCharacter {
        /// The text, shortened.
        name: String,
        /// The first bad character.
        found: char,
        /// Its place.
        at: usize,
    },
    /// A name that belongs to the server.
    #[error("{0:?} begins with '_'; such names belong to the server")]
    Reserved(String),
    /// `>` somewhere but at the end.
    #[error("{0:?} has '>' before its last part; '>' stands for all the rest")]
    RestNotLast(String),
}

impl Name {
    /// Checks a name that a client may use.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_length(text)?;
        for part in text.split('.') {
            check_part(text, part)?;
        }
        if text.starts_with('_') {
            return Err(NameError::Reserved(shortened(text)));
        }
        Ok(Self(text.into()))
    }

    /// The name of something that the server itself keeps about `of`. No client can use it.
    #[must_use]
    pub fn internal(kind: &str, of: &Self) -> Self {
        Self(format!("_{kind}.{of}").into())
    }

    /// What the server itself keeps this kind of thing about, if this is the name of one.
    #[must_use]
    pub fn internal_of(&self, kind: &str) -> Option<Self> {
        let of = self.0.strip_prefix('_')?.strip_prefix(kind)?.strip_prefix('.')?;
        Some(Self(of.into()))
    }

    /// A name that was checked when it was stored, the server's own included.
    pub fn stored(text: &str) -> Result<Self, NameError> {
        text.split('.').try_for_each(|part| check_part(text, part))?;
        Ok(Self(text.into()))
    }

    /// Whether it is the name of something that the server itself keeps.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.0.starts_with('_')
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A pattern over names: `*` stands for one part, `>` at the end for one or more. A name is a pattern, too,
/// that covers nothing but itself. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// Checks a pattern. Every name is a pattern that matches itself.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_length(text)?;
        let mut parts = text.split('.').peekable();
        while let Some(part) = parts.next() {
            match part {
                "*" => {}
                ">" if parts.peek().is_none() => {}
                ">" => return Err(NameError::RestNotLast(shortened(text))),
                _ => check_part(text, part)?,
            }
        }
        Ok(Self(text.into()))
    }

    /// Checks what a client gives where either a name or a pattern may be.
    pub fn parse_topics(text: &str) -> Result<Self, NameError> {
        if text.contains(['*', '>']) {
            let pattern = Self::parse(text)?;
            return if text.starts_with('_') {
                Err(NameError::Reserved(shortened(text)))
            } else {
                Ok(pattern)
            };
        }
        Name::parse(text).map(Self::from)
    }

    /// A pattern that was checked when it was stored.
    pub fn stored(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }

    /// The only name that it covers, if it is one.
    #[must_use]
    pub fn name(&self) -> Option<Name> {
        (!self.0.contains(['*', '>'])).then(|| Name(Arc::clone(&self.0)))
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern covers this name. The server's own names are covered by nothing but themselves.
    #[must_use]
    pub fn matches(&self, name: &Name) -> bool {
        if name.is_internal() {
            return *self.0 == *name.0;
        }
        let mut parts = name.as_str().split('.');
        for pattern in self.0.split('.') {
            match (pattern, parts.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (literal, Some(part)) if literal == part => {}
                _ => return false,
            }
        }
        parts.next().is_none()
    }

    /// Whether the pattern covers every name that a text stands for: the text itself, or what it covers
    /// as a pattern. The text may be anything.
    #[must_use]
    pub fn covers(&self, text: &str) -> bool {
        let mut parts = text.split('.');
        for pattern in self.0.split('.') {
            match (pattern, parts.next()) {
                (">", Some(_)) => return true,
                ("*", Some(part)) if part != ">" => {}
                (literal, Some(part)) if literal == part => {}
                _ => return false,
            }
        }
        parts.next().is_none()
    }

    /// Whether the pattern covers any name that a text stands for. The text may be anything.
    #[must_use]
    pub fn overlaps(&self, text: &str) -> bool {
        let mut parts = text.split('.');
        for pattern in self.0.split('.') {
            match (pattern, parts.next()) {
                (">", Some(_)) | (_, Some(">")) => return true,
                ("*", Some(_)) | (_, Some("*")) => {}
                (literal, Some(part)) if literal == part => {}
                _ => return false,
            }
        }
        parts.next().is_none()
    }
}

impl From<Name> for Pattern {
    fn from(name: Name) -> Self {
        Self(name.0)
    }
}

impl From<&Name> for Pattern {
    fn from(name: &Name) -> Self {
        Self(Arc::clone(&name.0))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_length(text: &str) -> Result<(), NameError> {
    match text.len() {
        0 => Err(NameError::Empty),
        1..=MAX_NAME_BYTES => Ok(()),
        long => Err(NameError::TooLong(long)),
    }
}

/// The beginning of a bad name: enough to recognise it, short enough for an error message.
fn shortened(text: &str) -> String {
    const SHOWN_BYTES: usize = 48;
    let end = text.floor_char_boundary(SHOWN_BYTES);
    if end == text.len() { text.to_owned() } else { format!("{}…", &text[..end]) }
}

fn check_part(text: &str, part: &str) -> Result<(), NameError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if let Some((_, found)) = part.char_indices().find(|&(_, c)| !allowed(c)) {
        let at = text.find(found).unwrap_or(0);
        return Err(NameError::BadCharacter { name: shortened(text), found, at });
    }
    if part.is_empty() { Err(NameError::EmptyPart(shortened(text))) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_hierarchies_and_refuses_everything_else() {
        for good in ["a", "orders.eu.created", "A-1_b", "a._b", &"x".repeat(255)] {
            assert_eq!(Name::parse(good).expect(good).as_str(), good);
        }
        let bad = ["", ".", "a.", ".a", "a..b", "a b", "../etc", "a/b", "a\0b", "é", "_sys", "a.*", "a.>"];
        for bad in bad.into_iter().chain([&*"x".repeat(256)]) {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_servers_own_names_are_no_clients() {
        let longest = Name::parse(&"x".repeat(255)).unwrap();
        let own = Name::internal("dead-letters", &longest);
        assert!(own.is_internal() && !longest.is_internal());
        assert!(Name::parse(own.as_str()).is_err());
        assert_eq!(Name::stored(own.as_str()), Ok(own));
        assert_eq!(Name::stored("orders.eu"), Name::parse("orders.eu"));
        assert!(Name::stored("a/b").is_err());
    }

    #[test]
    fn names_the_first_bad_character_and_its_place() {
        let error = Name::parse("ab/c").unwrap_err();
        assert_eq!(error, NameError::BadCharacter { name: "ab/c".into(), found: '/', at: 2 });
    }

    #[test]
    fn patterns_match_parts() {
        let matches =
            |pattern: &str, name: &str| Pattern::parse(pattern).unwrap().matches(&Name::parse(name).unwrap());
        assert!(matches("orders.*.created", "orders.eu.created"));
        assert!(!matches("orders.*.created", "orders.eu.west.created"));
        assert!(matches("orders.>", "orders.eu.west"));
        assert!(!matches("orders.>", "orders"));
        assert!(matches(">", "orders"));
        assert!(matches("orders", "orders"));
        assert!(!matches("*", "orders.eu"));
        assert!(Pattern::parse("a.>.b").is_err());
        assert!(Pattern::parse("a*").is_err());
    }

    #[test]
    fn a_pattern_covers_no_name_of_the_servers_but_itself() {
        let own = Name::internal("dead-letters", &Name::parse("orders").unwrap());
        for pattern in [">", "*", "*.orders", "*.>"] {
            assert!(!Pattern::parse(pattern).unwrap().matches(&own), "{pattern}");
        }
        assert!(Pattern::from(&own).matches(&own));
    }

    #[test]
    fn patterns_cover_and_overlap_patterns() {
        for (pattern, text, covers, overlaps) in [
            ("orders", "orders", true, true),
            ("orders", "orders.eu", false, false),
            ("orders.>", "orders.*", true, true),
            ("orders.>", "orders.>", true, true),
            ("orders.>", "orders", false, false),
            ("orders.*", "orders.>", false, true),
            ("orders.eu", "orders.*", false, true),
            ("orders.*", "*.eu", false, true),
            ("orders.*.x", "orders.>", false, true),
            ("orders.*.x", "*.eu.y", false, false),
            ("*", ">", false, true),
            ("*.*", "*", false, false),
            (">", ">", true, true),
            (">", "anything at all", true, true),
            ("orders", ">", false, true),
            ("a", "", false, false),
        ] {
            let parsed = Pattern::parse(pattern).unwrap();
            assert_eq!((parsed.covers(text), parsed.overlaps(text)), (covers, overlaps), "{pattern} {text}");
        }
    }

    proptest::proptest! {
        /// What is covered and what overlaps follows from which names match.
        #[test]
        fn covering_and_overlapping_agree_with_matching(
            first in "([ab*]\\.){0,2}[ab*>]", second in "([ab*]\\.){0,2}[ab*>]",
        ) {
            let (first, second) = (Pattern::parse(&first).unwrap(), Pattern::parse(&second).unwrap());
            // A third letter, and a part more than patterns have, stand for all other names.
            let parts = ["a", "b", "c"];
            let mut names = vec![String::new()];
            let mut all = Vec::new();
            for _ in 0..4 {
                names = names.iter().flat_map(|name| parts.map(|part| format!("{name}.{part}"))).collect();
                all.extend(names.iter().map(|name| Name::parse(&name[1..]).unwrap()));
            }
            let of_second: Vec<_> = all.iter().filter(|name| second.matches(name)).collect();
            let covers = of_second.iter().all(|name| first.matches(name));
            let overlaps = of_second.iter().any(|name| first.matches(name));
            assert_eq!(first.covers(second.as_str()), covers, "{first} {second}");
            assert_eq!(first.overlaps(second.as_str()), overlaps, "{first} {second}");
        }
    }

    #[test]
    fn a_client_gives_a_name_or_a_pattern() {
        for (good, name) in [("orders", Some("orders")), ("orders.*", None), (">", None)] {
            let topics = Pattern::parse_topics(good).unwrap();
            assert_eq!(topics.name().as_ref().map(Name::as_str), name);
            assert_eq!(topics.to_string(), good);
        }
        for bad in ["", "a.>.b", "**", "a..*", "*.", "_a.*", "_a", "a*"] {
            assert!(Pattern::parse_topics(bad).is_err(), "{bad:?}");
        }
    }
}
