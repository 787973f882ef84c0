//! From a text to an expression.
//!
//! The parser recurses once or more for every part that is nested in another, on up to 150 KiB of stack
//! each. So it gets a thread with plenty of stack, and a limit under which it never needs that.

use std::thread;

use cel::IdedExpr as Expression;
use cel::parser::{ParseErrors, Parser};

use super::error::FilterError;
use super::{Uses, check};
use crate::model::limits::MAX_FILTER_BYTES;

/// How deep the parser goes before it gives up; more than `check` allows, since parentheses count here.
const MAX_RECURSION: u16 = 32;
/// Three times what that takes in a build without optimisation.
const STACK_BYTES: usize = 32 << 20;

/// Reads and checks an expression.
pub(super) fn parse(text: &str) -> Result<(Expression, Uses), FilterError> {
    if text.len() > MAX_FILTER_BYTES {
        return Err(FilterError::TooLong(text.len()));
    }
    let owned = text.to_owned();
    let parser = thread::Builder::new().name("columba-filter".into()).stack_size(STACK_BYTES);
    // A panic of the parser ends in `join`. What is refused is dropped there, too, however deep it is.
    let parsed = parser.spawn(move || parse_here(&owned)).map(thread::JoinHandle::join);
    parsed.ok().and_then(Result::ok).unwrap_or(Err(FilterError::Unreadable))
}

fn parse_here(text: &str) -> Result<(Expression, Uses), FilterError> {
    let parser = Parser::new().max_recursion_depth(MAX_RECURSION);
    let (expression, source) = parser.parse_with_source_info(text).map_err(first_error)?;
    let position = |id| source.offset_for(id).map_or((1, 1), |(start, _)| position(text, start as usize));
    let uses = check::check(&expression, &position)?;
    Ok((expression, uses))
}

/// Line and column of the character at a byte, both from 1.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(byte)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

fn first_error(errors: ParseErrors) -> FilterError {
    let Some(error) = errors.errors.into_iter().next() else { return FilterError::Unreadable };
    let count = |number: isize| usize::try_from(number).unwrap_or(1).max(1);
    let message = if error.msg.contains("Recursion limit") {
        "is nested too deeply; take it apart".to_owned()
    } else {
        // What else the grammar would allow there is everything, mostly.
        let message = error.msg.trim_start_matches("Syntax error: ");
        let message = message.split(" expecting ").next().unwrap_or(message);
        message.replace("mismatched input '<EOF>'", "the expression ends too early")
    };
    FilterError::Invalid { line: count(error.pos.0), column: count(error.pos.1), message }
}
