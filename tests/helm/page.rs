//! docs/kubernetes.md: its commands of Helm and its values are accepted, and its refusal is as it says.

use std::fs;
use std::process::Command;

use crate::chart::{KUBERNETES, Tools, root};

/// The code blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let page = fs::read_to_string(root().join("docs/kubernetes.md")).unwrap();
    let fence = format!("```{language}\n");
    let after = page.split(&fence).skip(1);
    after.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn its_commands_are_accepted() {
    /// What `helm template` has no use for.
    const OF_A_CLUSTER: [&str; 2] = ["--wait", "--reset-then-reuse-values"];
    let Some(tools) = Tools::find() else { return };
    let text = blocks("sh").concat();
    let changes = ["helm install ", "helm upgrade "];
    let arguments = text.lines().filter_map(|line| changes.iter().find_map(|way| line.strip_prefix(way)));
    let mut tried = 0;
    for arguments in arguments {
        let words = arguments.split(' ').filter(|word| !OF_A_CLUSTER.contains(word));
        let rendered = tools.helm(&std::iter::once("template").chain(words).collect::<Vec<_>>());
        // Names that the page uses.
        let objects = tools.objects(&rendered);
        assert_eq!(objects.one("StatefulSet")["metadata"]["name"], "columba");
        assert_eq!(objects.one("StatefulSet")["spec"]["volumeClaimTemplates"][0]["metadata"]["name"], "data");
        tried += 1;
    }
    assert_eq!(tried, 3, "the commands were found");
}

#[test]
fn its_values_are_accepted() {
    let Some(tools) = Tools::find() else { return };
    let blocks = blocks("yaml");
    assert_eq!(blocks.len(), 4, "the values were found");
    for block in blocks {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, &block).unwrap();
        tools.render(KUBERNETES[0], file.path());
    }
}

#[test]
fn its_refusal_is_as_it_says() {
    let Some(tools) = Tools::find() else { return };
    let [block] = &blocks("console")[..] else { panic!("one refusal") };
    let (command, expected) = block.strip_prefix("$ ").unwrap().split_once('\n').unwrap();
    let script = format!("PATH={}:$PATH; {command}", tools.path().display());
    let output = Command::new("sh").args(["-c", &script]).current_dir(root()).output();
    let printed = String::from_utf8(output.unwrap().stdout).unwrap();
    let printed: Vec<_> = printed.lines().map(str::trim_end).collect();
    assert_eq!(printed, expected.lines().collect::<Vec<_>>());
}
