//! Finding entries in the order that is asked for, without looking at more than must be.
//!
//! There are two ways to find the first entries in an order. One goes through the index of that order and
//! passes over what is not wanted; it is quick when much of it is wanted. The other goes through all that
//! the other index says may be wanted, and keeps the best; it is quick when that is little. Which is
//! quicker is not known before, so both go on in turns, and the first to end has the answer: it costs at
//! most twice what the cheaper one does.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Bound;
use std::sync::Arc;

use redb::{Range, ReadOnlyTable, ReadTransaction};
use tokio_util::sync::CancellationToken;

use super::entry::{About, Score};
use super::tables::{ENTRIES, Row, SCORES, about_row};
use crate::cqrs::store::{self, Result};
use crate::model::Timestamp;

/// In which order entries come. Entries of one score are in the order of their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Order {
    pub(crate) by: By,
    /// Exactly the other way round.
    pub(crate) descending: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum By {
    Key,
    /// Only entries that have a score.
    Score,
}

/// Which entries, in which order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Of the key.
    pub(crate) prefix: String,
    /// Only entries with a score, and at least this one.
    pub(crate) min: Option<Score>,
    /// Only entries with a score, and at most this one.
    pub(crate) max: Option<Score>,
    pub(crate) order: Order,
}

impl Selection {
    /// Whether an entry is wanted.
    pub(crate) fn matches(&self, key: &str, about: &About) -> bool {
        key.starts_with(&self.prefix) && self.takes_score(about.score)
    }

    fn takes_score(&self, score: Option<Score>) -> bool {
        let Some(score) = score else { return !self.needs_score() };
        self.min.is_none_or(|min| min <= score) && self.max.is_none_or(|max| score <= max)
    }

    fn needs_score(&self) -> bool {
        self.order.by == By::Score || self.bounds_scores()
    }

    fn bounds_scores(&self) -> bool {
        self.min.is_some() || self.max.is_some()
    }

    /// Which of two entries comes first.
    pub(crate) fn compare(&self, a: (Option<Score>, &str), b: (Option<Score>, &str)) -> Ordering {
        let ascending = match self.order.by {
            By::Key => a.1.cmp(b.1),
            By::Score => a.cmp(&b),
        };
        if self.order.descending { ascending.reverse() } else { ascending }
    }
}

/// The place of an entry in an order, to go on after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) score: Option<Score>,
    pub(crate) key: Arc<str>,
}

/// An entry that was found, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) key: Arc<str>,
    pub(crate) about: About,
}

impl Found {
    pub(crate) fn mark(&self) -> Mark {
        Mark { score: self.about.score, key: self.key.clone() }
    }
}

/// What was found, in order, and what it took.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) found: Vec<Found>,
    /// Rows that were looked at.
    pub(crate) steps: u64,
}

/// Rows after which it is looked whether somebody still waits.
const LOOK_UP: u64 = 1_024;

/// The first entries of a selection, after a mark, at most `limit`. Without those that have expired `now`; with all
/// that are still in the view, if it is `None`. Gives up when the `caller` is cancelled: nobody waits any more.
pub(crate) fn find(
    transaction: &ReadTransaction,
    selection: &Selection,
    after: Option<&Mark>,
    limit: usize,
    now: Option<Timestamp>,
    caller: &CancellationToken,
) -> Result<Answer> {
    let entries = transaction.open_table(ENTRIES)?;
    let scores = transaction.open_table(SCORES)?;
    let query = Query { selection, after, now, entries: &entries };
    let by_key = || key_rows(&entries, selection, after);
    let by_score = || score_rows(&scores, selection, after);
    let (ordered, other) = match selection.order.by {
        By::Key => {
            (Rows::Keys(by_key()?), selection.bounds_scores().then(by_score).transpose()?.map(Rows::Scores))
        }
        By::Score => {
            let narrows = !selection.prefix.is_empty();
            (Rows::Scores(by_score()?), narrows.then(by_key).transpose()?.map(Rows::Keys))
        }
    };
    let mut first = Walk { rows: ordered, descending: selection.order.descending };
    let mut second = other.map(|rows| Walk { rows, descending: false });
    let (mut found, mut best) = (Vec::new(), Best { query: &query, limit, heap: BinaryHeap::new() });
    let (mut steps, mut looked) = (0, 0);
    while found.len() < limit {
        steps += 1;
        if steps / LOOK_UP > looked {
            looked = steps / LOOK_UP;
            if caller.is_cancelled() {
                return Err(store::Error::Disk("nobody waits for it any more".into()));
            }
        }
        match first.next(&query)? {
            Step::End => break,
            Step::Passed => {}
            Step::Found(entry) => found.push(entry),
        }
        let Some(second) = &mut second else { continue };
        steps += 1;
        match second.next(&query)? {
            Step::End => return Ok(Answer { found: best.into_order(), steps }),
            Step::Passed => {}
            Step::Found(entry) => best.offer(entry),
        }
    }
    Ok(Answer { found, steps })
}

/// What every row is measured by.
struct Query<'q> {
    selection: &'q Selection,
    after: Option<&'q Mark>,
    now: Option<Timestamp>,
    entries: &'q ReadOnlyTable<&'static str, Row>,
}

impl Query<'_> {
    fn wants(&self, key: &str, about: &About) -> bool {
        let is_after = self.after.is_none_or(|mark| {
            self.selection.compare((about.score, key), (mark.score, &mark.key)) == Ordering::Greater
        });
        let is_expired = self.now.is_some_and(|now| about.is_expired(now));
        is_after && !is_expired && self.selection.matches(key, about)
    }
}

enum Rows<'t> {
    Keys(Range<'t, &'static str, Row>),
    Scores(Range<'t, (u64, &'static str), ()>),
}

struct Walk<'t> {
    rows: Rows<'t>,
    descending: bool,
}

enum Step {
    Found(Found),
    Passed,
    End,
}

impl Walk<'_> {
    fn next(&mut self, query: &Query<'_>) -> Result<Step> {
        let (key, about): (Arc<str>, About) = match &mut self.rows {
            Rows::Keys(rows) => {
                let row = if self.descending { rows.next_back() } else { rows.next() };
                let Some((key, row)) = row.transpose()? else { return Ok(Step::End) };
                let about = about_row(row.value());
                if !query.wants(key.value(), &about) {
                    return Ok(Step::Passed);
                }
                (key.value().into(), about)
            }
            Rows::Scores(rows) => {
                let row = if self.descending { rows.next_back() } else { rows.next() };
                let Some((row, _)) = row.transpose()? else { return Ok(Step::End) };
                let (_, key) = row.value();
                // Not worth looking it up.
                if !key.starts_with(&query.selection.prefix) {
                    return Ok(Step::Passed);
                }
                match query.entries.get(key)?.map(|row| about_row(row.value())) {
                    Some(about) if query.wants(key, &about) => (key.into(), about),
                    _ => return Ok(Step::Passed),
                }
            }
        };
        Ok(Step::Found(Found { key, about }))
    }
}

/// The first entries of those that came in any order.
struct Best<'q> {
    query: &'q Query<'q>,
    limit: usize,
    /// The last of them is at the top.
    heap: BinaryHeap<Ranked<'q>>,
}

struct Ranked<'q> {
    selection: &'q Selection,
    found: Found,
}

impl Ord for Ranked<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let place = |found: &Found| (found.about.score, found.key.clone());
        let ((a_score, a_key), (b_score, b_key)) = (place(&self.found), place(&other.found));
        self.selection.compare((a_score, &a_key), (b_score, &b_key))
    }
}

impl PartialOrd for Ranked<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked<'_> {}

impl Best<'_> {
    fn offer(&mut self, found: Found) {
        self.heap.push(Ranked { selection: self.query.selection, found });
        if self.heap.len() > self.limit {
            self.heap.pop();
        }
    }

    fn into_order(self) -> Vec<Found> {
        self.heap.into_sorted_vec().into_iter().map(|ranked| ranked.found).collect()
    }
}

/// The rows of keys with the prefix; in the order of keys, only those after the mark.
fn key_rows<'t>(
    entries: &'t ReadOnlyTable<&'static str, Row>,
    selection: &Selection,
    after: Option<&Mark>,
) -> Result<Range<'t, &'static str, Row>> {
    let after = after.filter(|_| selection.order.by == By::Key).map(|mark| &*mark.key);
    let end = after_prefix(&selection.prefix);
    let (mut from, mut to) = (
        Bound::Included(selection.prefix.as_str()),
        end.as_deref().map_or(Bound::Unbounded, Bound::Excluded),
    );
    match after {
        Some(key) if selection.order.descending => to = Bound::Excluded(key),
        Some(key) => from = Bound::Excluded(key),
        None => {}
    }
    Ok(entries.range::<&str>((from, to))?)
}

/// The rows of scores within the bounds; in the order of scores, only those after the mark.
fn score_rows<'t>(
    scores: &'t ReadOnlyTable<(u64, &'static str), ()>,
    selection: &Selection,
    after: Option<&Mark>,
) -> Result<Range<'t, (u64, &'static str), ()>> {
    let after = after.filter(|_| selection.order.by == By::Score);
    let after = after.and_then(|mark| Some((mark.score?.bits(), &*mark.key)));
    let mut from = selection.min.map_or(Bound::Unbounded, |min| Bound::Included((min.bits(), "")));
    // No score has the highest bits: they are a NaN's.
    let mut to = selection.max.map_or(Bound::Unbounded, |max| Bound::Excluded((max.bits() + 1, "")));
    match after {
        Some(place) if selection.order.descending => to = Bound::Excluded(place),
        Some(place) => from = Bound::Excluded(place),
        None => {}
    }
    if let (Bound::Included(first) | Bound::Excluded(first), Bound::Excluded(end)) = (from, to)
        && first >= end
    {
        // Nothing lies between; a range must not run backward.
        return Ok(scores.range::<(u64, &str)>((0, "")..(0, ""))?);
    }
    Ok(scores.range::<(u64, &str)>((from, to))?)
}

/// The first text after all that begin with this one, if there is one.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        // Characters that are none lie in between.
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            end.push(next);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix() {
        let end = |prefix: &str| after_prefix(prefix);
        assert_eq!(end("a").as_deref(), Some("b"));
        assert_eq!(end("a\u{d7ff}").as_deref(), Some("a\u{e000}"));
        assert_eq!(end("a\u{10ffff}\u{10ffff}").as_deref(), Some("b"));
        assert_eq!((end("\u{10ffff}"), end("")), (None, None));
    }
}
