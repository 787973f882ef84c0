//! The dependency rules of ARCHITECTURE.md, enforced by reading the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What the files of a module may use of the others, from the top down: a module uses only those below it.
/// The first row that names a file or its module counts. Tests may use what they like.
const MAY_USE: &[(&str, &[&str])] = &[
    // The only part of the command line that is no client.
    (
        "cli/serve.rs",
        &["config", "server", "identity", "authorization", "tls", "cqrs", "embedded", "telemetry"],
    ),
    // What is checked and explained without a server, and where programs are looked for.
    ("cli/auth.rs", &["authorization", "identity", "model", "proto"]),
    ("cli/config.rs", &["config", "authorization", "identity", "tls", "model"]),
    ("cli/exec.rs", &["config", "model"]),
    ("cli", &["identity", "model", "proto", "watched"]),
    ("config", &["identity", "authorization", "tls", "embedded", "model", "telemetry"]),
    ("server", &["api", "identity", "authorization", "tls", "cqrs", "engine", "meter", "model"]),
    ("api", &["identity", "authorization", "tls", "cqrs", "engine", "meter", "model", "proto"]),
    ("authorization", &["identity", "model", "watched"]),
    ("identity", &["tls", "meter", "model", "watched"]),
    ("tls", &["meter", "watched"]),
    ("cqrs", &["engine", "meter", "model"]),
    ("embedded", &["engine", "meter", "model"]),
    ("engine", &["meter", "model"]),
    ("meter", &["model"]),
    ("model", &[]),
    ("proto", &[]),
    ("telemetry", &[]),
    ("watched", &[]),
];

/// One rule: files under `scope`, except `except`, must not mention any of `forbidden`.
struct Rule {
    name: &'static str,
    scope: &'static [&'static str],
    except: &'static [&'static str],
    forbidden: &'static [&'static str],
    advice: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        name: "no tonic below the API",
        scope: &[
            "model/",
            "meter/",
            "engine/",
            "embedded/",
            "cqrs/",
            "identity/",
            "authorization/",
            "tls/",
            "config",
            "telemetry.rs",
        ],
        except: &[],
        forbidden: &["tonic::", "tonic_"],
        advice: "turn wire types into domain types under api/",
    },
    Rule {
        name: "the format of metrics is known in one place",
        scope: &[""],
        except: &["server/metrics/"],
        forbidden: &["prometheus_client"],
        advice: "count with meter/, and let server/metrics write it down",
    },
    Rule {
        name: "files are opened by embedded/log/fs_real.rs and cqrs/store.rs only",
        scope: &["model/", "engine/", "embedded/", "cqrs/", "api/", "server/"],
        // Derived data is kept by a database that opens its own files, and is nothing to simulate faults of.
        except: &["embedded/log/fs_real.rs", "cqrs/store.rs"],
        forbidden: &["std::fs", "tokio::fs", "rustix::fs"],
        advice: "go through the Fs trait of embedded/log/fs.rs",
    },
    Rule {
        name: "the environment is read in config.rs only",
        scope: &[""],
        except: &["config.rs"],
        forbidden: &["std::env", "env::var"],
        advice: "make it a setting in config.rs",
    },
    Rule {
        name: "statuses are made in api/status.rs only",
        scope: &["api/", "server/", "cli/"],
        except: &["api/status.rs"],
        forbidden: &[
            "Status::new(",
            "Status::invalid_argument(",
            "Status::internal(",
            "Status::unavailable(",
            "Status::not_found(",
        ],
        advice: "make an error with a kind, and let api/status.rs map it",
    },
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The lines of a file that count: no comments, and nothing from its tests on.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let body = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let lines = body.lines().enumerate().map(|(number, line)| (number + 1, line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn violations(rule: &Rule, path: &str, text: &str) -> Vec<String> {
    let applies = rule.scope.iter().any(|scope| path.starts_with(scope))
        && !rule.except.iter().any(|except| path.starts_with(except));
    if !applies || path.contains("tests") {
        return Vec::new();
    }
    let bad = |line: &str| rule.forbidden.iter().find(|word| line.contains(**word)).copied();
    code(text)
        .filter_map(|(number, line)| Some((number, bad(line)?)))
        .map(|(number, word)| format!("src/{path}:{number}: {}: `{word}`; {}", rule.name, rule.advice))
        .collect()
}

/// The modules that a text names from the root of the crate, as `crate::X` or in `crate::{X, Y::Z}`.
fn modules_used(text: &str) -> BTreeSet<&str> {
    let mut used = BTreeSet::new();
    for (at, found) in text.match_indices("crate::") {
        let after = &text[at + found.len()..];
        let Some(group) = after.strip_prefix('{') else {
            used.insert(first_word(after));
            continue;
        };
        let mut depth = 0;
        let mut is_end = |letter| {
            depth += i32::from(letter == '{') - i32::from(letter == '}');
            depth < 0
        };
        let group = &group[..group.find(&mut is_end).unwrap_or(group.len())];
        let mut depth = 0;
        let members = group.split(|letter| {
            depth += i32::from(letter == '{') - i32::from(letter == '}');
            depth == 0 && letter == ','
        });
        used.extend(members.map(|member| first_word(member.trim())));
    }
    used.remove("");
    used
}

fn first_word(text: &str) -> &str {
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
    &text[..end.unwrap_or(text.len())]
}

/// The module that a path below src, or a row of the table, belongs to.
fn module(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

/// What a file uses that it may not.
fn forbidden_uses(path: &str, text: &str) -> Vec<String> {
    let own = module(path);
    if path.contains("tests") || ["lib", "main"].contains(&own) {
        return Vec::new();
    }
    let row = MAY_USE.iter().find(|(of, _)| path == *of || own == *of);
    let Some((_, allowed)) = row else {
        return vec![format!("src/{path}: give {own} a row in MAY_USE of tests/tidy.rs, and in lib.rs")];
    };
    let text = code(text).map(|(_, line)| line).collect::<Vec<_>>().join("\n");
    let used = modules_used(&text);
    let bad = used.into_iter().filter(|used| *used != own && !allowed.contains(used));
    bad.map(|used| format!("src/{path}: uses crate::{used}, and may use {own}, {allowed:?}")).collect()
}

/// Every source with its path below src.
fn all_sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 50, "found the sources: {}", files.len());
    let read = |file: &PathBuf| {
        let path = file.strip_prefix(&root).expect("under src").display().to_string();
        (path, fs::read_to_string(file).expect("sources are UTF-8"))
    };
    files.iter().map(read).collect()
}

#[test]
fn modules_use_only_what_they_may() {
    let wrong: Vec<_> = all_sources().iter().flat_map(|(path, text)| forbidden_uses(path, text)).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn modules_use_only_those_below_them_in_the_order_of_lib_rs() {
    let mut order: Vec<&str> = MAY_USE.iter().map(|(of, _)| module(of)).collect();
    order.dedup();
    let lib = include_str!("../src/lib.rs");
    let told: Vec<_> = lib.lines().filter_map(|line| line.strip_prefix("//! - ")).collect();
    let told: Vec<_> = told.iter().map(|line| first_word(line.trim_start_matches(['[', '`']))).collect();
    assert_eq!(told, order);
    let place = |module: &str| order.iter().position(|one| *one == module);
    for (of, allowed) in MAY_USE {
        for used in *allowed {
            assert!(place(used) > place(module(of)), "{of} may not use {used}, which is above it");
        }
    }
}

#[test]
fn finds_every_form_of_a_path() {
    let text =
        "use crate::a;\nuse crate::{b::{c, d}, e,\n    f_g::H};\npub(in crate::i) fn j(k: crate::l::M) {}";
    assert_eq!(modules_used(text), BTreeSet::from(["a", "b", "e", "f_g", "i", "l"]));
    let uses = |path: &str, text: &str| forbidden_uses(path, text).len();
    assert_eq!(uses("model/name.rs", "use crate::engine;\n"), 1);
    assert_eq!(uses("model/name.rs", "use crate::{model::Name, api};\n"), 1);
    assert_eq!(uses("telemetry.rs", "use crate::config;\n"), 1);
    assert_eq!(uses("model/name.rs", "// crate::engine\n#[cfg(test)]\nmod tests {\nuse crate::engine;\n"), 0);
    assert_eq!(uses("cli/serve.rs", "use crate::server;\n"), 0);
    assert_eq!(uses("cli/read.rs", "use crate::server;\n"), 1);
    assert_eq!(uses("newcomer/mod.rs", ""), 1);
}

#[test]
fn files_begin_with_what_they_are_about_and_keep_the_rules() {
    let mut wrong = Vec::new();
    for (path, text) in all_sources() {
        if !text.starts_with("//!") {
            wrong.push(format!("src/{path}:1: begin with a //! line that says what the file is about"));
        }
        wrong.extend(RULES.iter().flat_map(|rule| violations(rule, &path, &text)));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_rule_catches_what_it_forbids() {
    for rule in RULES {
        let path = format!("{}some.rs", rule.scope[0]);
        for word in rule.forbidden {
            let text = format!("//! Doc.\nuse {word};\n");
            assert_eq!(violations(rule, &path, &text).len(), 1, "{}: {word}", rule.name);
            let comment = format!("//! Doc.\n// {word}\n");
            assert!(violations(rule, &path, &comment).is_empty(), "comments do not count");
        }
    }
}
