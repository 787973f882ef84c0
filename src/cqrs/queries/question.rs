//! What is asked, and what is answered.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;

use crate::model::Name;

/// Attributes that say where a query comes from, not what it asks. They reach the handler, and do not
/// make queries different.
const TRACING: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// The parts of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parts {
    /// What is asked.
    pub(crate) kind: Name,
    /// What it is asked of, such as an order number; may be empty.
    pub(crate) key: String,
    /// The arguments.
    pub(crate) payload: Bytes,
    /// The media type of the payload; may be empty.
    pub(crate) content_type: String,
    /// Headers.
    pub(crate) attributes: BTreeMap<String, String>,
}

/// A question. Two are equal if one answer does for both: they differ in nothing but where they come
/// from. Cheap to clone; hashed once.
#[derive(Debug, Clone)]
pub(crate) struct Question(Arc<Asked>);

#[derive(Debug)]
struct Asked {
    hash: u64,
    parts: Parts,
}

impl Question {
    /// Takes the parts; `hashing` is the same for all questions that are compared.
    pub(crate) fn new(parts: Parts, hashing: &impl BuildHasher) -> Self {
        let mut hasher = hashing.build_hasher();
        parts.kind.hash(&mut hasher);
        parts.key.hash(&mut hasher);
        parts.payload.hash(&mut hasher);
        parts.content_type.hash(&mut hasher);
        identifying(&parts).for_each(|attribute| attribute.hash(&mut hasher));
        Self(Arc::new(Asked { hash: hasher.finish(), parts }))
    }

    /// What it is made of.
    pub(crate) fn parts(&self) -> &Parts {
        &self.0.parts
    }

    /// The type.
    pub(crate) fn kind(&self) -> &Name {
        &self.0.parts.kind
    }

    /// About how much memory it takes, in bytes.
    pub(crate) fn size(&self) -> usize {
        const OVERHEAD: usize = 256;
        let Parts { kind, key, payload, content_type, attributes } = &self.0.parts;
        let attributes: usize = attributes.iter().map(|(name, value)| name.len() + value.len() + 64).sum();
        OVERHEAD + kind.as_str().len() + key.len() + payload.len() + content_type.len() + attributes
    }
}

/// The attributes that make a question what it is.
fn identifying(parts: &Parts) -> impl Iterator<Item = (&String, &String)> {
    parts.attributes.iter().filter(|(name, _)| !TRACING.contains(&name.as_str()))
}

impl PartialEq for Question {
    fn eq(&self, other: &Self) -> bool {
        if Arc::ptr_eq(&self.0, &other.0) {
            return true;
        }
        let (a, b) = (self.parts(), other.parts());
        self.0.hash == other.0.hash
            && (&a.kind, &a.key, &a.payload, &a.content_type)
                == (&b.kind, &b.key, &b.payload, &b.content_type)
            && identifying(a).eq(identifying(b))
    }
}

impl Eq for Question {}

impl Hash for Question {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

/// What a handler answered. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The result.
    pub(crate) payload: Bytes,
    /// Its media type; may be empty.
    pub(crate) content_type: Arc<str>,
    /// How far what it was read from is; 0 if the handler does not say.
    pub(crate) revision: u64,
    /// What the handler calls itself; empty for an update, too.
    pub(crate) handler: Arc<str>,
}

impl Answer {
    /// About how much memory it takes, in bytes.
    pub(crate) fn size(&self) -> usize {
        const OVERHEAD: usize = 128;
        OVERHEAD + self.payload.len() + self.content_type.len()
    }
}

/// Why a handler gave no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// For programs, such as `ORDER_UNKNOWN`.
    pub(crate) code: String,
    /// For people.
    pub(crate) message: String,
    /// Whether asking again may help.
    pub(crate) retryable: bool,
    /// What the handler calls itself.
    pub(crate) handler: Arc<str>,
}

#[cfg(test)]
pub(super) mod tests {
    use std::hash::RandomState;

    use super::*;

    pub(crate) fn parts(kind: &str, key: &str, payload: &'static str) -> Parts {
        Parts {
            kind: Name::parse(kind).unwrap(),
            key: key.into(),
            payload: payload.into(),
            content_type: String::new(),
            attributes: BTreeMap::new(),
        }
    }

    #[test]
    fn equal_is_what_one_answer_does_for() {
        let hashing = RandomState::new();
        let with = |change: &dyn Fn(&mut Parts)| {
            let mut parts = parts("orders.get", "k", "{}");
            parts.attributes.insert("tenant".into(), "a".into());
            change(&mut parts);
            Question::new(parts, &hashing)
        };
        let question = with(&|_| {});
        let traced = with(&|parts| _ = parts.attributes.insert("traceparent".into(), "00-1".into()));
        assert_eq!(question, traced);
        assert_eq!(hashing.hash_one(&question), hashing.hash_one(&traced));
        let different: [&dyn Fn(&mut Parts); 6] = [
            &|parts| parts.kind = Name::parse("orders.list").unwrap(),
            &|parts| parts.key = "l".into(),
            &|parts| parts.payload = "[]".into(),
            &|parts| parts.content_type = "text/plain".into(),
            &|parts| _ = parts.attributes.insert("tenant".into(), "b".into()),
            &|parts| parts.attributes.clear(),
        ];
        for change in different {
            assert_ne!(question, with(change));
        }
    }
}
