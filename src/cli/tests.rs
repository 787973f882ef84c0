//! The command tree, and the commands that sources and pages advise.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

#[test]
fn the_command_tree_is_consistent() {
    Cli::command().debug_assert();
}

/// What files with advice end with.
const ENDINGS: [&str; 6] = ["rs", "md", "proto", "yaml", "tpl", "txt"];

/// Files with advice: sources, pages, protos and the chart.
fn files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            files(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|ending| ENDINGS.iter().any(|one| ending == *one)) {
        found.push(path.to_owned());
    }
}

/// The commands in backticks. A string of Rust may go on after a backslash, and prose on the next line.
fn quoted(text: &str) -> Vec<String> {
    let lines: Vec<_> = text.lines().map(|line| line.trim().trim_end_matches('\\').trim_end()).collect();
    let text = lines.join(" ");
    let commands = text.split('`').skip(1).step_by(2).filter(|code| code.starts_with("columba "));
    commands.map(str::to_owned).collect()
}

/// Whether the command line knows the words. Some may be missing, since prose names commands without them.
fn is_known(command: &str) -> bool {
    use ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion, MissingRequiredArgument,
        MissingSubcommand,
    };
    let incomplete = [
        DisplayHelp,
        DisplayHelpOnMissingArgumentOrSubcommand,
        DisplayVersion,
        MissingRequiredArgument,
        MissingSubcommand,
    ];
    let words = command.split_whitespace().map(|word| if word.contains('{') { "name" } else { word });
    Cli::command().try_get_matches_from(words).err().is_none_or(|error| incomplete.contains(&error.kind()))
}

#[test]
fn every_command_that_is_advised_is_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for place in ["src", "docs", "proto", "helm", "README.md"] {
        files(&root.join(place), &mut found);
    }
    let commands: Vec<_> = found
        .iter()
        .flat_map(|file| {
            quoted(&fs::read_to_string(file).unwrap()).into_iter().map(move |command| (file, command))
        })
        .collect();
    assert!(commands.len() > 40, "found the commands: {}", commands.len());
    let unknown: Vec<_> = commands.iter().filter(|(_, command)| !is_known(command)).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn finds_commands_and_knows_which_are_none() {
    let text = "a `b` \"see `columba topic edit {0} \\\n     --dedupe-window 2m`\" and `columba dlq`";
    assert_eq!(quoted(text), ["columba topic edit {0} --dedupe-window 2m", "columba dlq"]);
    assert!(quoted(text).iter().all(|command| is_known(command)));
    assert!(!is_known("columba topic change orders --dedupe-window 2m"));
    assert!(!is_known("columba topic edit orders --dedup-window 2m"));
}
