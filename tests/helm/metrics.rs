//! What the chart has for Prometheus and Grafana: it finds the server, and speaks of metrics that there are.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Child;

use serde_json::{Value, json};

use crate::chart::{Objects, Tools};
use crate::columba;
use crate::scrape::Scrape;

/// A server in a process of its own. Killed when it goes out of scope.
struct Server(Child, SocketAddr);

impl Server {
    fn start() -> Self {
        use std::io::{BufRead, BufReader};
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let flags = ["serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--data-dir"];
        let mut child = columba().args(flags).arg(data).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let admin = line.split("admin on ").nth(1).and_then(|rest| rest.split(',').next());
        let admin = admin.unwrap_or_else(|| panic!("{line}")).parse().unwrap();
        Self(child, admin)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The metrics that a text speaks of.
fn named(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_name(c)).filter(|word| word.starts_with("columba_"));
    words.map(str::to_owned).collect()
}

/// The dashboard of rendered objects.
fn dashboard(objects: &Objects) -> Value {
    let maps = objects.of_kind("ConfigMap");
    let text = maps.iter().find_map(|map| map["data"]["columba.json"].as_str());
    serde_json::from_str(text.expect("it has a dashboard")).unwrap()
}

/// What an object of JSON asks Prometheus for, at any depth.
fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match (&**key, value) {
                    ("expr" | "definition", Value::String(text)) => found.push(text.clone()),
                    _ => queries(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| queries(value, found)),
        _ => {}
    }
}

#[test]
fn dashboard_and_alerts_speak_of_metrics_that_there_are() {
    let Some(tools) = Tools::find() else { return };
    let objects = tools.good("monitored", &[]);
    let server = Server::start();
    let scrape = Scrape::get(server.1);
    let (mut of_dashboard, mut of_alerts) = (Vec::new(), Vec::new());
    queries(&dashboard(&objects), &mut of_dashboard);
    queries(&objects.one("PrometheusRule")["spec"], &mut of_alerts);
    assert!(of_dashboard.len() > 30 && of_alerts.len() > 10, "the queries were found");
    for query in of_dashboard.iter().chain(&of_alerts) {
        let names = named(query);
        assert!(!names.is_empty(), "{query}");
        for name in names {
            assert!(scrape.has(&name), "{name} of {query}");
        }
    }
    // And the other way round: a metric that nobody looks at is missing in the dashboard.
    let shown: BTreeSet<_> = of_dashboard.iter().flat_map(|query| named(query)).collect();
    let not_shown = ["columba_topics", "columba_subscriptions", "columba_tls_reloads"];
    for family in scrape.families.iter().filter(|family| !not_shown.contains(&&*family.name)) {
        assert!(shown.iter().any(|name| name.starts_with(&family.name)), "{} is shown", family.name);
    }
}

#[test]
fn prometheus_finds_the_server_and_is_let_in() {
    let Some(tools) = Tools::find() else { return };
    let objects = tools.good("monitored", &[]);
    let monitor = &objects.one("ServiceMonitor")["spec"];
    let wanted = monitor["selector"]["matchLabels"].as_object().unwrap();
    let services = objects.of_kind("Service");
    let selected = |service: &&&Value| {
        let labels = &service["metadata"]["labels"];
        wanted.iter().all(|(key, value)| labels[key] == *value)
    };
    let [service] = services.iter().filter(selected).collect::<Vec<_>>()[..] else { panic!("{wanted:?}") };
    let labels = &objects.one("StatefulSet")["spec"]["template"]["metadata"]["labels"];
    let selector = service["spec"]["selector"].as_object().unwrap();
    assert!(selector.iter().all(|(key, value)| labels[key] == *value), "{selector:?}");
    assert_eq!(service["spec"]["ports"][0]["name"], monitor["endpoints"][0]["port"]);
    let target = &service["spec"]["ports"][0]["targetPort"];
    let ports = objects.container()["ports"].as_array().unwrap();
    let port = ports.iter().find(|port| port["name"] == *target).expect("a port of the container");
    assert_eq!(port["containerPort"], 7172);
    let ingress = &objects.one("NetworkPolicy")["spec"]["ingress"][1];
    assert_eq!(ingress["ports"], json!([{ "protocol": "TCP", "port": 7172 }]));
    let monitoring = json!({ "matchLabels": { "kubernetes.io/metadata.name": "monitoring" } });
    assert_eq!(ingress["from"], json!([{ "namespaceSelector": monitoring }]));
    assert_eq!(objects.one("ServiceMonitor")["metadata"]["labels"]["release"], "prometheus");
}

#[test]
fn alerts_are_about_this_server_and_say_what_is_wrong() {
    let Some(tools) = Tools::find() else { return };
    let objects = tools.good("monitored", &[]);
    let rules = objects.one("PrometheusRule")["spec"]["groups"][0]["rules"].as_array().unwrap();
    let service = format!("{}-metrics", objects.one("StatefulSet")["metadata"]["name"].as_str().unwrap());
    let server = format!("namespace=\"messaging\",service=\"{service}\"");
    let mut names = BTreeSet::new();
    for rule in rules {
        let (name, expr) = (rule["alert"].as_str().unwrap(), rule["expr"].as_str().unwrap());
        assert!(name.starts_with("Columba") && names.insert(name), "{name}");
        for name in named(expr) {
            let all = expr.matches(&*name).count();
            let selected = expr.matches(&format!("{name}{{{server}")).count();
            let as_part = expr.matches(&format!("{name}_")).count();
            assert_eq!(all - as_part, selected, "{expr}");
        }
        assert!(!expr.contains('%'), "{expr}");
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{name}");
        for text in ["summary", "description"] {
            assert!(rule["annotations"][text].as_str().unwrap().len() > 10, "{name}");
        }
    }
    let old = rules.iter().find(|rule| rule["alert"] == "ColumbaOldMessages").unwrap();
    assert!(old["expr"].as_str().unwrap().ends_with("> 300"), "{old}");
}

#[test]
fn none_of_it_is_there_unless_asked_for() {
    let Some(tools) = Tools::find() else { return };
    let objects = tools.good("default", &[]);
    for kind in ["ServiceMonitor", "PrometheusRule"] {
        assert!(objects.of_kind(kind).is_empty(), "{kind}");
    }
    assert_eq!((objects.of_kind("ConfigMap").len(), objects.of_kind("Service").len()), (1, 2));
}
