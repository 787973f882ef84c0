//! The Helm chart: rendered by Helm, valid for the oldest and the newest Kubernetes, with a pod of the
//! profile "restricted" whose server starts; and what it refuses.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

#[path = "../common/scrape.rs"]
mod scrape;

mod chart;
mod metrics;
mod page;
mod restricted;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use chart::{KUBERNETES, Objects, Tools, good, root, stderr, values};
use serde_json::{Value, json};

/// Settings that the chart makes itself.
const OF_THE_CHART: [&str; 4] = ["listen", "admin_listen", "data_dir", "insecure"];

fn columba() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_columba"));
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The server's arguments in the pod, with the places of this machine.
fn arguments(objects: &Objects, config: &str, data_dir: &str) -> Vec<String> {
    let given = objects.container()["args"].as_array().unwrap().iter().map(|one| one.as_str().unwrap());
    let here = given.map(|argument| match argument.split_once('=') {
        Some(("--config", "/etc/columba/columba.toml")) => format!("--config={config}"),
        Some(("--data-dir", "/var/lib/columba/data")) => format!("--data-dir={data_dir}"),
        // Checked, and then served where the port is free.
        Some((flag @ ("--listen" | "--admin-listen"), address)) => {
            let address: std::net::SocketAddr = address.parse().unwrap();
            assert!(address.ip().is_unspecified(), "{address} can be reached from outside");
            assert_eq!(address.port(), if flag == "--listen" { 7171 } else { 7172 });
            format!("{flag}=127.0.0.1:0")
        }
        _ => argument.to_owned(),
    });
    here.collect()
}

/// Starts the server as the pod would, until it serves.
fn assert_serves(objects: &Objects, name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("columba.toml");
    fs::write(&config, objects.config()).unwrap();
    let data_dir = dir.path().join("data");
    let mut server = columba();
    server.args(arguments(objects, config.to_str().unwrap(), data_dir.to_str().unwrap()));
    let mut server = server.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let _ = server.kill();
    let mut errors = String::new();
    server.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    server.wait().unwrap();
    assert!(line.contains(" serving gRPC on "), "{name}: {line}{errors}");
}

/// The time that a set of values gives the server to stop, in seconds.
fn deadline(objects: &Objects) -> u64 {
    let text = objects.config();
    let table: toml::Table = text.parse().unwrap();
    let given = table.get("shutdown").and_then(|section| section.get("deadline"));
    given.map_or(25, |given| humantime::parse_duration(given.as_str().unwrap()).unwrap().as_secs())
}

#[test]
fn every_good_set_passes_lint() {
    let Some(tools) = Tools::find() else { return };
    for path in values("good-") {
        let linted = tools.helm(&["lint", "helm/columba", "--strict", "--values", path.to_str().unwrap()]);
        assert!(linted.status.success(), "{}", String::from_utf8_lossy(&linted.stdout));
    }
}

#[test]
fn every_good_set_is_valid_and_restricted_and_serves() {
    let Some(tools) = Tools::find() else { return };
    for path in values("good-") {
        let name = path.display().to_string();
        let [oldest, newest] = KUBERNETES.map(|version| tools.render(version, &path));
        for objects in [&oldest, &newest] {
            for pod in objects.pods() {
                assert_eq!(restricted::violations(pod), Vec::<String>::new(), "{name}");
                assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
                // Else the variables of a Service named columba-… would be taken for settings.
                assert_eq!(pod["enableServiceLinks"], false, "{name}");
            }
            let [server, test] = objects.pods();
            assert_eq!(restricted::writable(server), ["data"], "{name}");
            assert_eq!(restricted::writable(test), Vec::<&str>::new(), "{name}");
            let grace = server["terminationGracePeriodSeconds"].as_u64().unwrap();
            assert!(grace > deadline(objects), "{name}: {grace} s to stop");
            assert_eq!(objects.one("StatefulSet")["spec"]["replicas"], 1, "{name}");
        }
        assert_serves(&newest, &name);
    }
}

#[test]
fn what_selects_pods_selects_the_server_and_not_the_test() {
    let Some(tools) = Tools::find() else { return };
    let objects = tools.good("production", &[]);
    let set = &objects.one("StatefulSet")["spec"];
    let (server, test) = (&set["template"]["metadata"]["labels"], &objects.one("Pod")["metadata"]["labels"]);
    let services = objects.of_kind("Service");
    let mut selectors: Vec<_> = services.iter().map(|service| &service["spec"]["selector"]).collect();
    selectors.push(&set["selector"]["matchLabels"]);
    selectors.push(&objects.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"]);
    selectors.push(&objects.one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"]);
    assert_eq!(selectors.len(), 5);
    let selects = |selector: &Value, labels: &Value| {
        selector.as_object().unwrap().iter().all(|(key, value)| labels[key] == *value)
    };
    for selector in selectors {
        assert!(selects(selector, server), "{selector} selects {server}");
        assert!(!selects(selector, test), "{selector} does not select {test}");
    }
    let peers = &objects.one("NetworkPolicy")["spec"]["ingress"][0]["from"];
    assert!(selects(&peers[0]["podSelector"]["matchLabels"], test), "the test is let in: {peers}");
    let names: Vec<_> = services.iter().map(|service| &service["metadata"]["name"]).collect();
    assert!(names.contains(&&set["serviceName"]), "{names:?}");
    assert!(names.iter().any(|name| objects.pods()[1]["containers"][0]["args"][1]
        == format!("--server={}:7171", name.as_str().unwrap())));
}

#[test]
fn every_bad_set_is_refused_with_what_is_wrong() {
    let Some(tools) = Tools::find() else { return };
    for path in values("bad-") {
        let text = fs::read_to_string(&path).unwrap();
        let expected: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# Refused: ")).collect();
        assert!(!expected.is_empty(), "{} tells how it is refused", path.display());
        let rendered = tools.template(KUBERNETES[1], &path, &[]);
        assert!(!rendered.status.success(), "{} is refused", path.display());
        for expected in expected {
            assert!(stderr(&rendered).contains(expected), "{}: {}", path.display(), stderr(&rendered));
        }
    }
}

#[test]
fn the_schemas_refuse_what_kubernetes_would() {
    let Some(tools) = Tools::find() else { return };
    let rendered = tools.template(KUBERNETES[1], &good("default"), &[]);
    let yaml = String::from_utf8(rendered.stdout).unwrap();
    assert!(tools.validate(KUBERNETES[1], yaml.as_bytes()).is_ok());
    for (right, wrong) in [
        ("containerPort: 7171", "containerPort: grpc"),
        ("automountServiceAccountToken:", "automountServiceAccountTokens:"),
        ("targetPort: grpc", "targetPort: [grpc]"),
    ] {
        assert!(yaml.contains(right), "{right}");
        assert!(tools.validate(KUBERNETES[1], yaml.replace(right, wrong).as_bytes()).is_err(), "{wrong}");
    }
}

#[test]
fn an_older_kubernetes_is_refused() {
    let Some(tools) = Tools::find() else { return };
    let rendered = tools.template("1.28", &good("default"), &[]);
    assert!(!rendered.status.success());
    assert!(stderr(&rendered).contains(">=1.29.0-0"), "{}", stderr(&rendered));
}

#[test]
fn only_a_change_of_the_configuration_restarts_the_server() {
    let Some(tools) = Tools::find() else { return };
    let pod = |more: &[&str]| {
        let objects = tools.good("default", more);
        objects.one("StatefulSet")["spec"]["template"].clone()
    };
    let before = pod(&[]);
    assert!(before["metadata"]["annotations"]["checksum/config"].is_string(), "{before}");
    assert_eq!(pod(&["--set", "service.port=80"]), before);
    assert_ne!(pod(&["--set", "config.limits.connections=9"]), before);
}

#[test]
fn only_the_namespace_is_let_in_unless_told_otherwise() {
    let Some(tools) = Tools::find() else { return };
    let objects = tools.good("default", &[]);
    let policy = &objects.one("NetworkPolicy")["spec"];
    assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(policy["ingress"][0]["ports"], json!([{ "protocol": "TCP", "port": 7171 }]));
    assert_eq!(policy["ingress"][0]["from"][1], json!({ "podSelector": {} }));
    assert_eq!((policy["ingress"].as_array().unwrap().len(), &policy["egress"]), (1, &json!([])));

    let peers = tools.good("production", &[]);
    let peers = &peers.one("NetworkPolicy")["spec"]["ingress"][0]["from"];
    assert!(!peers.as_array().unwrap().contains(&json!({ "podSelector": {} })), "{peers}");
}

#[test]
fn the_issuer_of_tokens_can_be_let_through() {
    let Some(tools) = Tools::find() else { return };
    let values = root().join("helm/columba/ci/bad-issuer.yaml");
    let egress = json!([{ "to": [{ "ipBlock": { "cidr": "192.0.2.1/32" } }] }]);
    for allowed in [
        &["--set-json", &*format!("networkPolicy.egress={egress}")][..],
        &["--set", "networkPolicy.enabled=false,insecure=true"],
        &["--set", "config.identity.jwt.jwks=/etc/keys/jwks.json"],
    ] {
        let allowed = [allowed, &["--set", "config.authorization.allow_all=true"]].concat();
        let rendered = tools.template(KUBERNETES[1], &values, &allowed);
        assert!(rendered.status.success(), "{allowed:?}: {}", stderr(&rendered));
    }
}

#[test]
fn long_and_own_names_fit() {
    let Some(tools) = Tools::find() else { return };
    let long = "a".repeat(63);
    let objects = tools.good("default", &["--set", &format!("fullnameOverride={long}")]);
    let name = objects.one("StatefulSet")["metadata"]["name"].as_str().unwrap();
    // With a dash and a hash of ten it is a label, which takes 63.
    assert_eq!(name, "a".repeat(52));
    let own = tools.good("production", &[]);
    assert_eq!(own.one("StatefulSet")["metadata"]["name"], "messages");
}

#[test]
fn the_notes_warn_of_what_is_open_and_what_is_not_kept() {
    let Some(tools) = Tools::find() else { return };
    let notes = |name: &str| {
        let values = good(name);
        let install = ["install", "shop", "helm/columba", "--dry-run=client", "--values"];
        let output = tools.helm(&[&install[..], &[values.to_str().unwrap()]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        text.split("NOTES:").nth(1).expect("it has notes").to_owned()
    };
    let default = notes("default");
    assert!(default.contains("NO TLS AND NO IDENTITY"), "{default}");
    assert!(default.contains("data-shop-columba-0, which stays"), "{default}");
    assert!(notes("open").contains("Every pod of the cluster reaches it"));
    assert!(notes("small").contains("EVERYTHING IS LOST"));
}

/// A setting of the server that the chart does not know could not be set.
#[test]
fn the_chart_has_the_servers_settings() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("columba.toml");
    fs::write(&config, "nothing = 1\n").unwrap();
    let refused = columba().args(["serve", "--config", config.to_str().unwrap()]).output().unwrap();
    let said = stderr(&refused);
    let keys = said.split("the keys are ").nth(1).expect("it tells its keys").trim().split(", ");
    let keys: BTreeSet<_> = keys.filter(|key| !OF_THE_CHART.contains(key)).map(str::to_owned).collect();

    let schema = fs::read(root().join("helm/columba/values.schema.json")).unwrap();
    let schema: Value = serde_json::from_slice(&schema).unwrap();
    let mut known = BTreeSet::new();
    keys_of(&schema["properties"]["config"], "", &mut known);
    assert_eq!(known, keys);
}

/// The keys of a table in a schema, those of its tables among them.
fn keys_of(table: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    for (key, value) in table["properties"].as_object().unwrap() {
        if value["properties"].is_object() {
            keys_of(value, &format!("{prefix}{key}."), found);
        } else {
            found.insert(format!("{prefix}{key}"));
        }
    }
}

#[test]
fn the_chart_is_for_this_version() {
    let chart = fs::read_to_string(root().join("helm/columba/Chart.yaml")).unwrap();
    assert!(chart.contains(&format!("appVersion: \"{}\"", env!("CARGO_PKG_VERSION"))), "{chart}");
    assert!(chart.contains(&format!("kubeVersion: \">={}.0-0\"", KUBERNETES[0])), "{chart}");
}
