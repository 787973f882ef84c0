//! The dependency rule of ARCHITECTURE.md, enforced by reading the sources.

use std::fs;
use std::path::{Path, PathBuf};

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
        name: "the model knows nobody",
        scope: &["model/"],
        except: &[],
        forbidden: &[
            "crate::engine",
            "crate::cqrs",
            "crate::embedded",
            "crate::api",
            "crate::server",
            "crate::cli",
            "crate::config",
        ],
        advice: "move what the model needs into model/, or the code that needs more out of it",
    },
    Rule {
        name: "meters know nobody but the model",
        scope: &["meter/"],
        except: &[],
        forbidden: &[
            "crate::engine",
            "crate::cqrs",
            "crate::embedded",
            "crate::api",
            "crate::server",
            "crate::cli",
            "crate::config",
            "crate::proto",
        ],
        advice: "those who count have meters; server/metrics asks them",
    },
    Rule {
        name: "the format of metrics is known in one place",
        scope: &[""],
        except: &["server/metrics/"],
        forbidden: &["prometheus_client"],
        advice: "count with meter/, and let server/metrics write it down",
    },
    Rule {
        name: "the contract knows no engine",
        scope: &["engine/"],
        except: &[],
        forbidden: &[
            "crate::cqrs",
            "crate::embedded",
            "crate::api",
            "crate::server",
            "crate::cli",
            "crate::config",
            "crate::proto",
        ],
        advice: "the engine contract may use model/ only",
    },
    Rule {
        name: "commands, queries and views know the contract, not the engines",
        scope: &["cqrs/"],
        except: &[],
        forbidden: &[
            "crate::embedded",
            "crate::api",
            "crate::server",
            "crate::cli",
            "crate::config",
            "crate::proto",
        ],
        advice: "go through the Engine trait, and leave wire types to api/",
    },
    Rule {
        name: "an engine knows no layer above it",
        scope: &["embedded/"],
        except: &[],
        forbidden: &[
            "crate::cqrs",
            "crate::api",
            "crate::server",
            "crate::cli",
            "crate::config",
            "crate::proto",
        ],
        advice: "an engine may use engine/ and model/ only",
    },
    Rule {
        name: "identity, authorization and TLS know neither messages nor calls",
        scope: &["identity/", "authorization/", "tls/"],
        except: &[],
        forbidden: &[
            "crate::engine",
            "crate::cqrs",
            "crate::embedded",
            "crate::api",
            "crate::server",
            "crate::cli",
            "crate::config",
            "crate::proto",
        ],
        advice: "the layer that asks who calls is api/authenticate.rs, and what calls ask for is api/access",
    },
    Rule {
        name: "the API knows the contract, not the engines",
        scope: &["api/"],
        except: &[],
        forbidden: &["crate::embedded", "crate::cli"],
        advice: "go through the Engine trait",
    },
    Rule {
        name: "the command line is a client",
        scope: &["cli/"],
        except: &["cli/serve.rs"],
        forbidden: &["crate::engine", "crate::cqrs", "crate::embedded", "crate::api", "crate::server"],
        advice: "talk to the server through crate::proto; only `serve` starts one",
    },
    Rule {
        name: "tonic stays in the API",
        scope: &[
            "model/",
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
        name: "files are touched in one place",
        scope: &["model/", "engine/", "embedded/", "cqrs/", "api/", "server/"],
        // Derived data is kept by a database that opens its own files, and is nothing to simulate faults of.
        except: &["embedded/log/fs_real.rs", "cqrs/store.rs"],
        forbidden: &["std::fs", "tokio::fs", "rustix::fs"],
        advice: "go through the Fs trait of embedded/log/fs.rs",
    },
    Rule {
        name: "the environment is read in config.rs",
        scope: &[""],
        except: &["config.rs"],
        forbidden: &["std::env", "env::var"],
        advice: "make it a setting in config.rs",
    },
    Rule {
        name: "statuses are made in one place",
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
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line));
    lines
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]\nmod tests"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn violations(rule: &Rule, path: &str, text: &str) -> Vec<String> {
    let applies = rule.scope.iter().any(|scope| path.starts_with(scope))
        && !rule.except.iter().any(|except| path.starts_with(except));
    if !applies || path.contains("tests") {
        return Vec::new();
    }
    let body = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let bad = |line: &str| rule.forbidden.iter().find(|word| line.contains(**word)).copied();
    code(body)
        .filter_map(|(number, line)| Some((number, bad(line)?)))
        .map(|(number, word)| format!("src/{path}:{number}: {}: `{word}`; {}", rule.name, rule.advice))
        .collect()
}

#[test]
fn layers_know_only_what_they_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 50, "found the sources: {}", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("sources are UTF-8");
        let path = file.strip_prefix(&root).expect("under src").display().to_string();
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
