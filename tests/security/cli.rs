//! The command line against a server with TLS and identity.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use columba::identity::{Settings, hash};
use columba::server::Options;
use columba::tls::{ClientCertificates, Tls};

use crate::authority::{Authority, uri};
use crate::common::TestServer;
use crate::files::Files;
use crate::{identifying, tokens};

pub fn columba(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_columba"));
    command.args(arguments).env_clear();
    command
}

/// Runs it while the server, which shares this thread, goes on.
pub async fn run(command: Command) -> (Option<i32>, String, String) {
    let mut command = assert_cmd::Command::from_std(command);
    let output = tokio::task::spawn_blocking(move || command.timeout(Duration::from_secs(20)).output()).await;
    let Output { status, stdout, stderr } = output.unwrap().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

pub fn put(dir: &Path, name: &str, content: &str) -> String {
    let path: PathBuf = dir.join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn tokens_are_sent_and_never_shown() {
    let (dir, server) = tokens::server(&[tokens::OLD]).await;
    let address = server.address.to_string();
    let file = put(dir.path(), "token", &format!("{}\n", tokens::OLD));
    let list = ["topic", "ls", "--server", &address];
    for extra in [["--token", tokens::OLD], ["--token-file", &file]] {
        let (code, _, stderr) = run(columba(&[&list[..], &extra].concat())).await;
        assert_eq!(code, Some(0), "{stderr}");
    }
    for (variable, value) in [("COLUMBA_TOKEN", tokens::OLD), ("COLUMBA_TOKEN_FILE", &file)] {
        let mut command = columba(&list);
        command.env(variable, value);
        assert_eq!(run(command).await.0, Some(0));
    }
    let (code, _, stderr) = run(columba(&list)).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("authorization: Bearer"), "{stderr}");
    let (code, _, stderr) =
        run(columba(&[&list[..], &["--token", tokens::NEW, "-o", "json"]].concat())).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("UNKNOWN_TOKEN") && !stderr.contains(tokens::NEW), "{stderr}");
    let (code, _, stderr) =
        run(columba(&[&list[..], &["--token", "a", "--token-file", &file]].concat())).await;
    assert_eq!(code, Some(2), "{stderr}");
    let mut help = columba(&["topic", "ls", "--help"]);
    help.env("COLUMBA_TOKEN", tokens::OLD);
    let (_, stdout, _) = run(help).await;
    assert!(stdout.contains("COLUMBA_TOKEN") && !stdout.contains(tokens::OLD), "{stdout}");
}

#[tokio::test]
async fn tls_and_client_certificates() {
    let (authority, clients) = (Authority::new("root"), Authority::new("clients"));
    let files = Files::tls(&authority.server(), &clients.pem());
    let tls = Tls::open(files.mutual(ClientCertificates::Required)).unwrap();
    let server = identifying(Settings::default(), Some(tls)).await;
    let dir = tempfile::tempdir().unwrap();
    let pair = clients.client(&[uri("spiffe://test/cli")]);
    let ca = put(dir.path(), "ca.pem", &authority.pem());
    let certificate = put(dir.path(), "client.pem", &pair.certificate);
    let key = put(dir.path(), "client.key", &pair.key);
    let secure = format!("https://localhost:{}", server.address.port());
    let bare = server.address.to_string();
    let identity = ["--tls-ca", &ca, "--tls-cert", &certificate, "--tls-key", &key];
    // An address without a scheme is taken for what the other options ask for.
    for address in [&secure, &bare] {
        let (code, _, stderr) =
            run(columba(&[&["topic", "ls", "--server", address][..], &identity].concat())).await;
        assert_eq!(code, Some(0), "{stderr}");
    }
    let stranger = put(dir.path(), "stranger.pem", &Authority::new("stranger").pem());
    let plain = format!("http://{bare}");
    for (arguments, code, part) in [
        (vec!["--server", &secure, "--tls-ca", &stranger], 4, "--tls-ca"),
        (vec!["--server", &secure, "--tls-ca", &ca, "--timeout", "1s"], 4, "--tls-cert"),
        (vec!["--server", &secure, "--tls-ca", &ca, "--tls-cert", &certificate], 2, "--tls-key"),
        (vec!["--server", &secure, "--tls-ca", "/none"], 1, "/none"),
        (vec!["--server", &plain, "--tls-ca", &ca], 2, "https://"),
        (vec!["--server", &plain], 4, "https://"),
    ] {
        let (exit, _, stderr) = run(columba(&[&["topic", "ls"][..], &arguments].concat())).await;
        assert!(exit == Some(code) && stderr.contains(part), "{arguments:?}: {exit:?} {stderr}");
    }
    let plain = TestServer::start_with(Options::default()).await;
    let address = format!("https://{}", plain.address);
    let (code, _, stderr) = run(columba(&["topic", "ls", "--server", &address, "--tls-ca", &ca])).await;
    assert!(code == Some(4) && stderr.contains("http://"), "{stderr}");
}

#[test]
fn hashes_tokens_from_standard_input() {
    let hashing = |input: &str| {
        let mut command = assert_cmd::Command::from_std(columba(&["auth", "hash-token"]));
        command.write_stdin(input).output().unwrap()
    };
    let output = hashing(&format!("{}\n", tokens::OLD));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}\n", hash(tokens::OLD)));
    for bad in ["", "short", "two words that are long enough", &"x".repeat(9000)] {
        let output = hashing(bad);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(bad.is_empty() || !String::from_utf8(output.stderr).unwrap().contains(bad));
    }
}

#[test]
fn the_server_refuses_what_cannot_be_all_at_once() {
    let authority = Authority::new("root");
    let (pair, other) = (authority.server(), authority.server());
    let dir = tempfile::tempdir().unwrap();
    let certificate = put(dir.path(), "tls.crt", &pair.certificate);
    let key = put(dir.path(), "tls.key", &other.key);
    let tokens = put(dir.path(), "tokens.toml", "[[tokens]]\nprincipal = 'a'\nhash = 'secret'\n");
    let data = dir.path().join("data");
    let mut command = columba(&["serve", "--listen", "0.0.0.0:0", "--data-dir", data.to_str().unwrap()]);
    command.env("COLUMBA_TLS_CERTIFICATE", certificate).env("COLUMBA_TLS_KEY", key);
    command.env("COLUMBA_IDENTITY_TOKENS", tokens);
    let rules = put(dir.path(), "rules.toml", "[[rules]]\nprincipals = ['a']\nallow = ['raed']\n");
    command.env("COLUMBA_AUTHORIZATION_RULES", rules);
    let output = assert_cmd::Command::from_std(command).timeout(Duration::from_secs(20)).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("do not belong together") && stderr.contains("token 1: hash"), "{stderr}");
    assert!(!stderr.contains("secret") && stderr.lines().count() == 4 && !data.exists(), "{stderr}");
    assert!(
        stderr.contains("line 1: the rule has no names") && stderr.contains("line 3: `allow` has \"raed\""),
        "{stderr}"
    );

    // Options of clients do not become settings of the server silently.
    let mut command = assert_cmd::Command::from_std(columba(&["serve", "--tls-key", "a"]));
    let output = command.timeout(Duration::from_secs(20)).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && stderr.contains("COLUMBA_TLS_CERTIFICATE"), "{stderr}");
}

#[test]
fn a_configuration_is_checked_and_shown_without_serving() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = columba(arguments);
        command.env("COLUMBA_LOG_LEVEL", "warn");
        let output =
            assert_cmd::Command::from_std(command).timeout(Duration::from_secs(20)).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let hash = hash(tokens::OLD);
    let token_file =
        put(dir.path(), "tokens.toml", &format!("[[tokens]]\nprincipal = 'a'\nhash = '{hash}'\n"));
    let rules = put(dir.path(), "rules.toml", "");
    let security = format!("[identity]\ntokens = '{token_file}'\n[authorization]\nrules = '{rules}'\n");
    let good = put(dir.path(), "good.toml", &format!("shutdown.deadline = '3s'\n{security}"));
    let (code, stdout, stderr) = run(&["config", "check", "--config", &good]);
    assert!(code == Some(0) && stdout.contains("nothing is wrong"), "{stdout}{stderr}");
    let (code, stdout, stderr) = run(&["config", "show", "--config", &good, "-o", "json"]);
    assert_eq!(code, Some(0), "{stderr}");
    for part in [
        format!(r#"{{"key":"shutdown.deadline","value":"3s","origin":"from {good}","default":"25s"}}"#),
        r#"{"key":"log.level","value":"warn","origin":"from COLUMBA_LOG_LEVEL","default":"\"info\""}"#.into(),
        r#"{"key":"limits.connections","value":null,"origin":null,"default":"10000"}"#.into(),
    ] {
        assert!(stdout.lines().any(|line| line == part), "{part} in {stdout}");
    }

    let bad = put(dir.path(), "bad.toml", "listen = 'nowhere'\nlisen = 'x'\nlimits.connections = 0\n");
    let (code, _, stderr) = run(&["config", "check", "--config", &bad]);
    assert!(code == Some(2) && stderr.lines().count() == 3, "{stderr}");
    put(dir.path(), "rules.toml", "[[rules]]\n");
    put(dir.path(), "tokens.toml", "[[token]]\n");
    let (code, _, stderr) = run(&["config", "check", "--config", &good]);
    assert!(
        code == Some(2) && stderr.contains("tokens.toml") && stderr.contains("rules.toml: line 1"),
        "{stderr}"
    );
}
