//! Renders the chart, with the tools that `make test` fetches.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The oldest and the newest version of Kubernetes that the chart is for.
pub(crate) const KUBERNETES: [&str; 2] = ["1.29", "1.37"];

/// Reads YAML as Kubernetes does, and writes it as JSON.
const CONVERT: &str = r"
import json, sys, yaml
json.dump([one for one in yaml.safe_load_all(sys.stdin) if one], sys.stdout)
";

/// Checks every object on standard input against the schemas of a version.
/// Objects of the Gateway API and of the Prometheus operator have no schema there: they are no part of Kubernetes.
const VALIDATE: &str = r"
import sys, yaml
from kubernetes_validate import validate
for one in yaml.safe_load_all(sys.stdin):
    if one and not one['apiVersion'].startswith(('gateway.networking.k8s.io/', 'monitoring.coreos.com/')):
        assert validate(one, sys.argv[1], strict=True) == sys.argv[1], 'no schemas for that version'
";

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Helm and the validator.
pub(crate) struct Tools {
    helm: PathBuf,
    validator: PathBuf,
}

impl Tools {
    /// None if they are not there, which is a failure in CI.
    pub(crate) fn find() -> Option<Self> {
        let tools = root().join(".tools");
        let (helm, validator) = (tools.join("helm-4.3.1/helm"), tools.join("kubernetes-validate"));
        for (name, path) in [("helm 4.3.1", &helm), ("kubernetes-validate", &validator)] {
            if !path.exists() {
                let why = format!("skipped: {name} is not in .tools; `make test` fetches it");
                assert!(std::env::var_os("CI").is_none(), "{why}");
                println!("{why}");
                return None;
            }
        }
        Some(Self { helm, validator })
    }

    pub(crate) fn helm(&self, arguments: &[&str]) -> Output {
        let mut helm = Command::new(&self.helm);
        // Nobody's repositories, plug-ins or cluster.
        helm.env_clear().env("HOME", "/nonexistent").current_dir(root());
        helm.args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// The objects of one of the good sets, with more arguments.
    #[track_caller]
    pub(crate) fn good(&self, name: &str, more: &[&str]) -> Objects {
        self.objects(&self.template(KUBERNETES[1], &good(name), more))
    }

    /// What `helm template` says for a file of values.
    pub(crate) fn template(&self, kubernetes: &str, values: &Path, more: &[&str]) -> Output {
        let fixed = ["template", "shop", "helm/columba", "--namespace", "messaging", "--kube-version"];
        let values = values.to_str().unwrap();
        self.helm(&[&fixed, &[kubernetes, "--values", values][..], more].concat())
    }

    /// The rendered objects, valid for a version of Kubernetes.
    pub(crate) fn render(&self, kubernetes: &str, values: &Path) -> Objects {
        let rendered = self.template(kubernetes, values, &[]);
        assert!(rendered.status.success(), "{}: {}", values.display(), stderr(&rendered));
        let valid = self.validate(kubernetes, &rendered.stdout);
        valid.unwrap_or_else(|wrong| panic!("{} for {kubernetes}: {wrong}", values.display()));
        self.objects(&rendered)
    }

    /// The objects that `helm template` has rendered.
    #[track_caller]
    pub(crate) fn objects(&self, rendered: &Output) -> Objects {
        assert!(rendered.status.success(), "{}", stderr(rendered));
        Objects(serde_json::from_str(&self.python(CONVERT, "", &rendered.stdout).unwrap()).unwrap())
    }

    /// Checks objects in YAML; says what is wrong with one.
    pub(crate) fn validate(&self, kubernetes: &str, yaml: &[u8]) -> Result<(), String> {
        self.python(VALIDATE, kubernetes, yaml).map(|_| ())
    }

    /// What a program prints, or says is wrong.
    fn python(&self, program: &str, argument: &str, input: &[u8]) -> Result<String, String> {
        let mut python = Command::new("python3");
        python.args(["-c", program, argument]).env("PYTHONPATH", &self.validator);
        python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut python = python.spawn().unwrap();
        python.stdin.take().unwrap().write_all(input).unwrap();
        let output = python.wait_with_output().unwrap();
        let printed = String::from_utf8(output.stdout.clone()).unwrap();
        if output.status.success() { Ok(printed) } else { Err(stderr(&output)) }
    }

    /// The directory with Helm's program.
    pub(crate) fn path(&self) -> &Path {
        self.helm.parent().unwrap()
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The sets of values under `ci` whose names begin with this.
pub(crate) fn values(prefix: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(root().join("helm/columba/ci")).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(prefix);
    let mut found: Vec<_> = files.filter(named).collect();
    found.sort();
    assert!(found.len() > 3, "found the sets of values: {found:?}");
    found
}

/// One of the good sets.
pub(crate) fn good(name: &str) -> PathBuf {
    root().join(format!("helm/columba/ci/good-{name}.yaml"))
}

/// Rendered objects.
pub(crate) struct Objects(Vec<Value>);

impl Objects {
    pub(crate) fn of_kind(&self, kind: &str) -> Vec<&Value> {
        self.0.iter().filter(|object| object["kind"] == kind).collect()
    }

    /// The only object of a kind.
    #[track_caller]
    pub(crate) fn one(&self, kind: &str) -> &Value {
        let [one] = self.of_kind(kind)[..] else { panic!("one {kind} in {:#?}", self.0) };
        one
    }

    /// The server's configuration file.
    #[track_caller]
    pub(crate) fn config(&self) -> &str {
        let files =
            self.of_kind("ConfigMap").into_iter().filter_map(|map| map["data"]["columba.toml"].as_str());
        let [one] = files.collect::<Vec<_>>()[..] else { panic!("one columba.toml in {:#?}", self.0) };
        one
    }

    /// The specification of the server's pod.
    pub(crate) fn server(&self) -> &Value {
        &self.one("StatefulSet")["spec"]["template"]["spec"]
    }

    /// The server's container.
    pub(crate) fn container(&self) -> &Value {
        &self.server()["containers"][0]
    }

    /// The specifications of all pods, the test's among them.
    pub(crate) fn pods(&self) -> [&Value; 2] {
        [self.server(), &self.one("Pod")["spec"]]
    }
}
