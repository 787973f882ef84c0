//! Reads a file of rules. All that is wrong with it is told at once, each with its line.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::rules::{EVERYBODY, Effect, Rule, Rules};
use super::verb::{VERBS, Verb, Verbs};
use crate::identity::{MAX_NAME_BYTES, is_name};
use crate::model::Pattern;

/// Most rules in a file.
const MAX_RULES: usize = 10_000;
/// Stands for all verbs.
const ALL: &str = "*";
/// How much of a bad value is repeated.
const SHOWN_BYTES: usize = 48;
const KEYS: &str = "principals, groups, allow, deny and names";

/// Reads the file's text; the errors are all that is wrong with it.
pub(super) fn rules(text: &str) -> Result<Rules, Vec<String>> {
    let ends = text.match_indices('\n').map(|(at, _)| at).collect();
    let mut reader = Reader { ends, problems: Vec::new() };
    let rules = match DeTable::parse(text) {
        Ok(table) => reader.file(table.get_ref()),
        Err(error) => {
            reader.add(&error.span().unwrap_or_default(), error.message());
            Vec::new()
        }
    };
    if reader.problems.is_empty() {
        return Ok(Rules::new(rules));
    }
    // Tables are read in the order of their keys, and people read files from the top.
    reader.problems.sort_by_key(|(line, _)| *line);
    Err(reader.problems.into_iter().map(|(line, problem)| format!("line {line}: {problem}")).collect())
}

/// The keys of a rule that are there.
#[derive(Default)]
struct Draft {
    principals: Option<Vec<String>>,
    groups: Option<Vec<String>>,
    allow: Option<Vec<Vec<Verb>>>,
    deny: Option<Vec<Vec<Verb>>>,
    names: Option<Vec<Pattern>>,
}

struct Reader {
    /// Where each line ends.
    ends: Vec<usize>,
    /// By line.
    problems: Vec<(usize, String)>,
}

impl Reader {
    fn line(&self, at: &Range<usize>) -> usize {
        self.ends.partition_point(|&end| end < at.start) + 1
    }

    fn add(&mut self, at: &Range<usize>, problem: impl Into<String>) {
        let line = self.line(at);
        self.problems.push((line, problem.into()));
    }

    fn file(&mut self, table: &DeTable<'_>) -> Vec<Rule> {
        let mut rules = Vec::new();
        for (key, value) in table {
            match (&**key.get_ref(), value.get_ref()) {
                ("rules", DeValue::Array(entries)) => {
                    if entries.len() > MAX_RULES {
                        let many = format!("there are {} rules, and at most {MAX_RULES}", entries.len());
                        self.add(&value.span(), many);
                        continue;
                    }
                    rules.extend(entries.iter().filter_map(|entry| self.rule(entry)));
                }
                ("rules", _) => {
                    self.add(&value.span(), "`rules` is no list of tables; begin each rule with [[rules]]");
                }
                (other, _) => {
                    let problem = format!("unknown key {other:?}; the file has [[rules]] only");
                    self.add(&key.span(), problem);
                }
            }
        }
        rules
    }

    /// Reads a rule; what is wrong with it is noted.
    fn rule(&mut self, entry: &Spanned<DeValue<'_>>) -> Option<Rule> {
        let at = entry.span();
        let DeValue::Table(table) = entry.get_ref() else {
            self.add(&at, "a rule is no table; begin each with [[rules]]");
            return None;
        };
        let mut draft = Draft::default();
        for (key, value) in table {
            match &**key.get_ref() {
                "principals" => draft.principals = Some(self.list("principals", value, holder)),
                "groups" => draft.groups = Some(self.list("groups", value, group)),
                "allow" => draft.allow = Some(self.list("allow", value, verbs)),
                "deny" => draft.deny = Some(self.list("deny", value, verbs)),
                "names" => draft.names = Some(self.list("names", value, pattern)),
                other => {
                    let problem = format!("unknown key {other:?}; a rule has {KEYS}");
                    self.add(&key.span(), problem);
                }
            }
        }
        self.finish(draft, &at)
    }

    /// Notes what a rule lacks.
    fn finish(&mut self, draft: Draft, at: &Range<usize>) -> Option<Rule> {
        let Draft { principals, groups, allow, deny, names } = draft;
        if principals.is_none() && groups.is_none() {
            self.add(at, "the rule is about nobody; give it principals, groups or both");
        }
        if names.is_none() {
            self.add(at, "the rule has no names; give it some, such as [\"orders.>\"], or [\">\"] for all");
        }
        let (effect, verbs) = match (allow, deny) {
            (Some(verbs), None) => (Effect::Allow, verbs),
            (None, Some(verbs)) => (Effect::Deny, verbs),
            (None, None) => {
                self.add(at, "the rule neither allows nor denies; give it `allow` or `deny`");
                return None;
            }
            (Some(_), Some(_)) => {
                self.add(at, "the rule has both `allow` and `deny`; make two rules of it");
                return None;
            }
        };
        Some(Rule {
            line: self.line(at),
            principals: principals.unwrap_or_default(),
            groups: groups.unwrap_or_default(),
            effect,
            verbs: verbs.into_iter().flatten().fold(Verbs::default(), Verbs::and),
            names: names.unwrap_or_default(),
        })
    }

    /// Reads a list of texts that is not empty.
    fn list<T>(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let DeValue::Array(entries) = value.get_ref() else {
            let found = value.get_ref().type_str();
            self.add(&value.span(), format!("`{key}` is no list, but a {found}; write [\"…\", \"…\"]"));
            return Vec::new();
        };
        if entries.is_empty() {
            self.add(
                &value.span(),
                format!("`{key}` is empty; give it at least one entry, or leave the rule out"),
            );
        }
        let mut list = Vec::new();
        for entry in entries {
            let read = match entry.get_ref() {
                DeValue::String(text) => read(text),
                other => Err(format!("has a {}, and must have texts in quotes", other.type_str())),
            };
            match read {
                Ok(value) => list.push(value),
                Err(problem) => self.add(&entry.span(), format!("`{key}` {problem}")),
            }
        }
        list
    }
}

fn holder(text: &str) -> Result<String, String> {
    if is_name(text) {
        return Ok(text.to_owned());
    }
    let allowed = format!("1 to {MAX_NAME_BYTES} bytes without control characters");
    Err(format!("has {:?}; names of principals and groups have {allowed}", shown(text)))
}

fn group(text: &str) -> Result<String, String> {
    if text == EVERYBODY {
        return Err("has \"*\"; for everybody, write principals = [\"*\"]".into());
    }
    holder(text)
}

fn verbs(text: &str) -> Result<Vec<Verb>, String> {
    if text == ALL {
        return Ok(VERBS.to_vec());
    }
    let verb = Verb::parse(text).ok_or_else(|| {
        let known = VERBS.map(Verb::as_str).join(", ");
        format!("has {:?}, which is no verb; the verbs are {known}, and \"*\" for all", shown(text))
    })?;
    Ok(vec![verb])
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text)
        .map_err(|error| format!("has a bad pattern: {error}; `*` stands for one part, `>` for all the rest"))
}

/// The beginning of a bad value.
fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(SHOWN_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_everything_that_is_wrong_with_its_line() {
        let file = r#"
[[rules]]
principals = ["billing", ""]
allow = ["publsh", "read", 7]
names = ["orders.>.x"]

[[rules]]
principal = "billing"
allow = ["read"]
deny = ["read"]

[[rules]]
groups = []
names = "orders"

[[other]]
"#;
        let problems = rules(file).unwrap_err();
        for (problem, (line, part)) in problems.iter().zip([
            (3, "`principals` has \"\"; names of"),
            (4, "`allow` has \"publsh\", which is no verb; the verbs are publish, consume, manage, send"),
            (4, "`allow` has a integer"),
            (5, "`names` has a bad pattern: \"orders.>.x\""),
            (7, "about nobody"),
            (7, "has no names"),
            (7, "both `allow` and `deny`"),
            (8, "unknown key \"principal\"; a rule has principals, groups, allow, deny and names"),
            (12, "neither allows nor denies"),
            (13, "`groups` is empty"),
            (14, "`names` is no list, but a string"),
            (16, "unknown key \"other\""),
        ]) {
            assert!(problem.starts_with(&format!("line {line}: ")) && problem.contains(part), "{problem}");
        }
        assert_eq!(problems.len(), 12, "{problems:#?}");
    }

    #[test]
    fn a_file_that_is_no_toml_is_refused_with_its_line() {
        let problems = rules("[[rules]]\nallow = [").unwrap_err();
        assert!(problems.len() == 1 && problems[0].starts_with("line 2: "), "{problems:?}");
        assert!(rules("rules = 3").unwrap_err()[0].contains("[[rules]]"));
        assert!(rules("rules = [3]").unwrap_err()[0].contains("[[rules]]"));
    }

    #[test]
    fn an_empty_file_allows_nothing() {
        assert!(rules("").unwrap().is_empty());
    }
}
