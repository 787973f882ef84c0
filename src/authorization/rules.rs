//! The rules of a file, and how they decide.

use std::collections::HashMap;
use std::fmt;

use super::verb::{Verb, Verbs};
use crate::identity::Principal;
use crate::model::Pattern;

/// Stands for every principal in a rule.
pub(super) const EVERYBODY: &str = "*";

/// Whom a decision is about.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// The principal's name.
    pub name: &'a str,
    /// Their groups.
    pub groups: &'a [String],
}

impl<'a> From<&'a Principal> for Who<'a> {
    fn from(principal: &'a Principal) -> Self {
        Self { name: &principal.name, groups: &principal.groups }
    }
}

/// What a decision is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A name, or all that a pattern covers. It may be no name at all: then it is refused later.
    Names(&'a str),
    /// Some name or other, which is not known yet.
    Any,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It allows.
    Allow,
    /// It denies, whatever other rules allow.
    Deny,
}

/// A rule.
#[derive(Debug)]
pub(super) struct Rule {
    /// The line on which it begins.
    pub(super) line: usize,
    pub(super) principals: Vec<String>,
    pub(super) groups: Vec<String>,
    pub(super) effect: Effect,
    pub(super) verbs: Verbs,
    pub(super) names: Vec<Pattern>,
}

/// All rules, to be looked up by whom they are about.
#[derive(Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
    principals: HashMap<String, Vec<usize>>,
    groups: HashMap<String, Vec<usize>>,
    everybody: Vec<usize>,
}

/// What comes of a question, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision<'a> {
    /// A rule allows it, and none denies it.
    Allowed(Basis<'a>),
    /// A rule denies it.
    Denied(Basis<'a>),
    /// No rule allows it.
    NotAllowed,
}

/// The part of a rule that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Basis<'a> {
    /// Which rule of the file, from 1.
    pub rule: usize,
    /// The line on which it begins, from 1.
    pub line: usize,
    /// Whom it names: a principal, `*` or, if `is_group`, a group.
    pub holder: &'a str,
    /// Whether the holder is a group.
    pub is_group: bool,
    /// Which of its patterns.
    pub pattern: &'a Pattern,
}

impl Decision<'_> {
    /// Whether it is allowed.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verdict, basis) = match self {
            Self::Allowed(basis) => ("allowed", basis),
            Self::Denied(basis) => ("denied", basis),
            Self::NotAllowed => return f.write_str("denied: no rule allows it"),
        };
        let Basis { rule, line, holder, is_group, pattern } = basis;
        let kind = if *is_group { "group" } else { "principal" };
        write!(f, "{verdict} by rule {rule} on line {line}: {kind} {holder:?}, names {:?}", pattern.as_str())
    }
}

impl Rules {
    pub(super) fn new(rules: Vec<Rule>) -> Self {
        let mut all = Self::default();
        for (index, rule) in rules.iter().enumerate() {
            for principal in &rule.principals {
                if principal == EVERYBODY {
                    all.everybody.push(index);
                } else {
                    all.principals.entry(principal.clone()).or_default().push(index);
                }
            }
            for group in &rule.groups {
                all.groups.entry(group.clone()).or_default().push(index);
            }
        }
        all.rules = rules;
        all
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none, so that nobody may do anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Decides: a rule that denies any of what is asked for wins, and one rule must allow all of it.
    #[must_use]
    pub fn decide<'a>(&'a self, who: Who<'a>, verb: Verb, target: Target<'_>) -> Decision<'a> {
        let mut decision = Decision::NotAllowed;
        let own = self.principals.get(who.name);
        let named = own.into_iter().flatten().map(|&rule| (rule, who.name, false));
        let groups = who.groups.iter().flat_map(|group| {
            let rules = self.groups.get(group);
            rules.into_iter().flatten().map(move |&rule| (rule, group.as_str(), true))
        });
        let everybody = self.everybody.iter().map(|&rule| (rule, EVERYBODY, false));
        for (index, holder, is_group) in named.chain(groups).chain(everybody) {
            let rule = &self.rules[index];
            if !rule.verbs.contains(verb) || (rule.effect == Effect::Allow && decision.is_allowed()) {
                continue;
            }
            let Some(pattern) = rule.applies(target) else { continue };
            let basis = Basis { rule: index + 1, line: rule.line, holder, is_group, pattern };
            match rule.effect {
                Effect::Allow => decision = Decision::Allowed(basis),
                Effect::Deny => return Decision::Denied(basis),
            }
        }
        decision
    }
}

impl Rule {
    /// The pattern by which the rule applies.
    fn applies(&self, target: Target<'_>) -> Option<&Pattern> {
        let fits = |pattern: &&Pattern| match (target, self.effect) {
            (Target::Names(text), Effect::Allow) => pattern.covers(text),
            (Target::Names(text), Effect::Deny) => pattern.overlaps(text),
            (Target::Any, Effect::Allow) => true,
            (Target::Any, Effect::Deny) => pattern.covers(">"),
        };
        self.names.iter().find(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const FILE: &str = r#"
        [[rules]]
        principals = ["billing"]
        allow = ["publish", "read"]
        names = ["orders.>", "invoices"]

        [[rules]]
        groups = ["ops"]
        allow = ["*"]
        names = [">"]

        [[rules]]
        principals = ["*"]
        deny = ["publish", "read"]
        names = ["orders.secret.>"]

        [[rules]]
        principals = ["*"]
        allow = ["query"]
        names = ["rates"]
    "#;

    fn decide<'a>(rules: &'a Rules, name: &'a str, groups: &'a [String], verb: Verb, text: &str) -> String {
        rules.decide(Who { name, groups }, verb, Target::Names(text)).to_string()
    }

    #[test]
    fn deny_wins_and_what_is_not_allowed_is_denied() {
        let rules = parse::rules(FILE).unwrap();
        let ops = ["ops".to_owned()];
        for (name, groups, verb, text, decision) in [
            (
                "billing",
                &[][..],
                Verb::Publish,
                "orders.eu",
                r#"allowed by rule 1 on line 2: principal "billing", names "orders.>""#,
            ),
            ("billing", &[], Verb::Read, "invoices", "allowed by rule 1 "),
            ("billing", &[], Verb::Publish, "orders", "denied: no rule"),
            ("billing", &[], Verb::Consume, "orders.eu", "denied: no rule"),
            (
                "billing",
                &[],
                Verb::Publish,
                "orders.secret.x",
                r#"denied by rule 3 on line 12: principal "*", names "orders.secret.>""#,
            ),
            ("stranger", &[], Verb::Publish, "orders.eu", "denied: no rule"),
            ("stranger", &[], Verb::Query, "rates", "allowed by rule 4 "),
            ("anna", &ops, Verb::Manage, "orders", r#"allowed by rule 2 on line 7: group "ops", names ">""#),
            ("anna", &ops, Verb::Read, "orders.secret.x", "denied by rule 3 "),
            // A pattern is allowed as a whole, and denied for any part.
            ("anna", &ops, Verb::Read, ">", "denied by rule 3 "),
            ("anna", &ops, Verb::Read, "orders.*", "allowed by rule 2 "),
            ("anna", &ops, Verb::Consume, ">", "allowed by rule 2 "),
            ("billing", &[], Verb::Read, "orders.*.x", "denied by rule 3 "),
            ("billing", &[], Verb::Read, "*", "denied: no rule"),
        ] {
            let decided = decide(&rules, name, groups, verb, text);
            assert!(decided.starts_with(decision), "{name} {verb} {text}: {decided}");
        }
    }

    #[test]
    fn any_name_will_do_where_the_name_comes_later() {
        let rules = parse::rules(FILE).unwrap();
        let allowed = |name, verb| rules.decide(Who { name, groups: &[] }, verb, Target::Any).is_allowed();
        assert!(allowed("billing", Verb::Publish) && !allowed("billing", Verb::Handle));
        let none = FILE.replace("orders.secret.>", ">");
        let none = parse::rules(&none).unwrap();
        let billing = Who { name: "billing", groups: &[] };
        assert!(!none.decide(billing, Verb::Publish, Target::Any).is_allowed());
    }
}
