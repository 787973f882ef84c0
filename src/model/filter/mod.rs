//! Filters: expressions in CEL that say which messages a subscription wants.
//!
//! A filter sees `message.key`, `message.type`, `message.content_type`, `message.id`,
//! `message.correlation_id`, `message.causation_id` (texts, empty if the producer set none),
//! `message.attributes` (a map of texts), `message.data_json` (the data as JSON; null if it is not JSON,
//! or too large), `topic`, `offset`, `attempt` (1 for the first) and `publish_time`.
//!
//! In reading order: `parse` makes an expression of a text, `check` refuses what it may not do or could
//! cost too much, `facts` and `values` are what it is given of a message.

mod check;
mod error;
mod facts;
mod parse;
mod values;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock, OnceLock};

use cel::common::types::CelBool;
use cel::{Context, Env, ExecutionError, IdedExpr, Value};

pub use self::error::{FilterError, Unclear};
pub use self::facts::Facts;
use self::facts::Known;

/// CEL's standard functions, of which `check` allows some.
static STANDARD: LazyLock<Arc<Env>> =
    LazyLock::new(|| Arc::new(Env::default().with_optional_support(false).with_stdlib()));

/// Which messages a subscription wants; all of them if its text is empty, as by default.
///
/// Cheap to clone. Two filters are equal if their texts are.
#[derive(Clone, Default)]
pub struct Filter(Option<Arc<Inner>>);

struct Inner {
    text: String,
    compiled: OnceLock<Result<Compiled, FilterError>>,
}

/// An expression that passed all checks.
#[derive(Debug)]
struct Compiled {
    expression: IdedExpr,
    uses: Uses,
}

/// Which parts of a message that are not read for every filter an expression mentions.
#[derive(Debug, Clone, Copy, Default)]
struct Uses {
    attributes: bool,
    json: bool,
}

impl Filter {
    /// Reads a filter, and refuses one that could not be evaluated, or not cheaply.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let filter = Self::stored(text);
        match filter.error() {
            Some(error) => Err(error.clone()),
            None => Ok(filter),
        }
    }

    /// A filter that was accepted before, by this version of the server or another: it is kept, whether
    /// this version can read it or not, and read when it is first used.
    #[must_use]
    pub fn stored(text: &str) -> Self {
        if text.is_empty() {
            return Self(None);
        }
        Self(Some(Arc::new(Inner { text: text.to_owned(), compiled: OnceLock::new() })))
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        self.0.as_ref().map_or("", |inner| &inner.text)
    }

    /// Whether it lets every message pass.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Why it cannot be used, if it cannot.
    #[must_use]
    pub fn error(&self) -> Option<&FilterError> {
        self.0.as_ref()?.compiled().as_ref().err()
    }

    /// Whether it wants a message. One that it cannot decide on it does not want.
    #[must_use]
    pub fn matches(&self, message: &Facts<'_>) -> bool {
        self.decide(message).unwrap_or(false)
    }

    /// Whether it wants a message, or why it cannot say.
    pub fn decide(&self, message: &Facts<'_>) -> Result<bool, Unclear> {
        let Some(inner) = &self.0 else { return Ok(true) };
        inner.compiled().as_ref().map_err(|error| Unclear::Unreadable(error.clone()))?.decide(message)
    }
}

impl Inner {
    fn compiled(&self) -> &Result<Compiled, FilterError> {
        self.compiled.get_or_init(|| compile(&self.text))
    }
}

fn compile(text: &str) -> Result<Compiled, FilterError> {
    let (expression, uses) = parse::parse(text)?;
    let compiled = Compiled { expression, uses };
    compiled.try_out()?;
    Ok(compiled)
}

impl Compiled {
    fn decide(&self, message: &Facts<'_>) -> Result<bool, Unclear> {
        let known = Known::read(message, self.uses);
        // Nothing that a panic leaves behind is used again.
        let decided = catch_unwind(AssertUnwindSafe(|| {
            let mut context = Context::with_env(Arc::clone(&STANDARD));
            context.set_variable_resolver(&known);
            let value = Value::resolve_val(&self.expression, &context)?;
            let decision = value.downcast_ref::<CelBool>().map(|decision| *decision.inner());
            Ok(decision.ok_or_else(|| value.get_type().name().to_owned()))
        }));
        match decided {
            Ok(Ok(Ok(decision))) => Ok(decision),
            Ok(Ok(Err(other_type))) => Err(Unclear::NotBool(other_type)),
            Ok(Err(ExecutionError::NoSuchKey(_))) => Err(Unclear::Absent),
            Ok(Err(error)) => Err(Unclear::Failed(Box::new(error))),
            Err(_panic) => Err(Unclear::Panicked),
        }
    }

    /// Decides on an empty message, which shows some mistakes in types before there are messages.
    fn try_out(&self) -> Result<(), FilterError> {
        match self.decide(&Facts::sample()) {
            Err(Unclear::NotBool(other)) => Err(FilterError::NotBool(other)),
            // The types in data are not known before.
            Err(Unclear::Failed(error)) if !self.uses.json && is_about_types(&error) => {
                Err(FilterError::Types(error.to_string()))
            }
            Err(Unclear::Panicked) => Err(FilterError::Unreadable),
            _ => Ok(()),
        }
    }
}

fn is_about_types(error: &ExecutionError) -> bool {
    matches!(
        error,
        ExecutionError::NoSuchOverload(_)
            | ExecutionError::InvalidArgumentCount { .. }
            | ExecutionError::UnsupportedTargetType { .. }
            | ExecutionError::NotSupportedAsMethod { .. }
            | ExecutionError::UnsupportedKeyType(_)
            | ExecutionError::UnexpectedType { .. }
            | ExecutionError::UndeclaredReference(_)
            | ExecutionError::MissingArgumentOrTarget
            | ExecutionError::ValuesNotComparable(..)
            | ExecutionError::UnsupportedBinaryOperator(..)
            | ExecutionError::UnsupportedIndex(..)
    )
}

impl fmt::Debug for Filter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Filter").field(&self.text()).finish()
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Filter {}

#[cfg(test)]
mod tests;
