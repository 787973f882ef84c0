//! `columba topic edit` and `columba subscription edit`: single settings, read, changed and written back.
//!
//! What is written carries the etag of what was read, so that nothing that somebody else changes in
//! between is lost.

pub(super) mod subscription;
pub(super) mod topic;

use std::collections::HashMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::context::Context;
use super::error::Error;
use super::message::printable;
use super::parse;

/// What every edit takes.
#[derive(Debug, clap::Args)]
struct EditFlags {
    /// Set a label; may be repeated. Other labels stay
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse::key_value)]
    labels: Vec<(String, String)>,
    /// Remove a label; may be repeated
    #[arg(long = "remove-label", value_name = "NAME")]
    removed_labels: Vec<String>,
    /// Change it only if its etag, as `describe` shows it, is still this one
    #[arg(long, value_name = "ETAG", default_value = "", hide_default_value = true)]
    etag: String,
    /// Only check, and show what would change
    #[arg(long)]
    dry_run: bool,
}

impl EditFlags {
    /// The labels as they are to be; `None` if no flag is about them.
    fn labels(&self, mut current: HashMap<String, String>) -> Result<Option<HashMap<String, String>>, Error> {
        if self.labels.is_empty() && self.removed_labels.is_empty() {
            return Ok(None);
        }
        let added = parse::key_values("--label", self.labels.clone())?;
        for name in &self.removed_labels {
            if added.contains_key(name) {
                let message = format!("label {name} is both set and removed; give one of the flags");
                return Err(Error::Usage(message));
            }
            current.remove(name);
        }
        current.extend(added);
        Ok(Some(current))
    }

    /// The etag to write with.
    fn etag(&self, current: String) -> String {
        if self.etag.is_empty() { current } else { self.etag.clone() }
    }
}

/// The mask of an update. Without a path there is nothing to do, which is a mistake.
fn mask(paths: Vec<&str>) -> Result<Option<prost_types::FieldMask>, Error> {
    if paths.is_empty() {
        return Err(Error::Usage("nothing to change; give at least one setting, see --help".into()));
    }
    Ok(Some(prost_types::FieldMask { paths: paths.into_iter().map(Into::into).collect() }))
}

/// Says what an edit changed, or would change.
fn show<T: Serialize>(
    (what, name): (&str, &str),
    (before, after): (&T, &T),
    dry_run: bool,
    context: &Context,
) -> Result<(), Error> {
    let changes = differences(object(before), object(after));
    let mut text = match (changes.is_empty(), dry_run) {
        (true, _) => format!("{what} {name} is like that already"),
        (false, true) => format!("{what} {name} would change:"),
        (false, false) => format!("{what} {name} changed:"),
    };
    for (setting, Change { from, to }) in &changes {
        let setting = setting.replace('_', " ");
        let _ = write!(text, "\n  {setting}: {} -> {}", plain(from), plain(to));
    }
    let changes: Map<_, _> = changes
        .into_iter()
        .map(|(setting, Change { from, to })| (setting, json!({ "from": from, "to": to })))
        .collect();
    let all = json!({ what: after, "changes": changes, "dry_run": dry_run });
    Ok(context.format.sentence(&all, &text)?)
}

struct Change {
    from: Value,
    to: Value,
}

fn object<T: Serialize>(shown: &T) -> Map<String, Value> {
    match serde_json::to_value(shown) {
        Ok(Value::Object(settings)) => settings,
        _ => Map::new(),
    }
}

/// The settings that differ; those within another by a path with dots.
fn differences(before: Map<String, Value>, mut after: Map<String, Value>) -> Vec<(String, Change)> {
    let mut changes = Vec::new();
    for (setting, from) in before {
        let to = after.remove(&setting).unwrap_or(Value::Null);
        match (from, to) {
            (from, to) if from == to || setting == "etag" => {}
            (Value::Object(from), Value::Object(to)) => {
                let within = differences(from, to).into_iter();
                changes.extend(within.map(|(name, change)| (format!("{setting}.{name}"), change)));
            }
            (from, to) => changes.push((setting, Change { from, to })),
        }
    }
    changes.extend(after.into_iter().map(|(setting, to)| (setting, Change { from: Value::Null, to })));
    changes
}

/// A value for people.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::String(text) if text.is_empty() => "none".into(),
        Value::String(text) => printable(text.as_bytes()).into_owned(),
        other => printable(other.to_string().as_bytes()).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_differs() {
        let before = json!({ "a": 1, "etag": "1", "b": { "c": "x", "d": 2 }, "labels": { "old": "1" } });
        let after = json!({ "a": 1, "etag": "2", "b": { "c": "", "d": 2 }, "labels": { "new": "2" } });
        let changes = differences(object(&before), object(&after));
        let shown: Vec<_> = changes
            .iter()
            .map(|(name, Change { from, to })| format!("{name}: {} -> {}", plain(from), plain(to)))
            .collect();
        assert_eq!(shown, ["b.c: x -> none", "labels.old: 1 -> none", "labels.new: none -> 2"]);
    }
}
