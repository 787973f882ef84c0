//! The profile "restricted" of the Pod Security Standards, and what the chart promises beyond it.

use serde_json::{Value, json};

/// Volumes that the profile allows.
const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object[key].as_array().map_or(&[], Vec::as_slice)
}

/// Why a pod is not of the profile.
pub(crate) fn violations(pod: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut require = |holds: bool, what: &str| {
        if !holds {
            wrong.push(what.to_owned());
        }
    };
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        require(pod[host] != true, host);
    }
    for volume in list(pod, "volumes") {
        let kinds = volume.as_object().expect("a volume is an object").keys().filter(|key| *key != "name");
        require(kinds.clone().all(|kind| VOLUMES.contains(&kind.as_str())), "a kind of volume");
    }
    let shared = &pod["securityContext"];
    require(shared["runAsNonRoot"] == true, "runAsNonRoot of the pod");
    require(shared["runAsUser"] != 0, "runAsUser of the pod");
    require(shared["seccompProfile"] == json!({ "type": "RuntimeDefault" }), "seccompProfile");
    require(shared["sysctls"].is_null(), "sysctls");
    let kinds = ["containers", "initContainers", "ephemeralContainers"];
    let containers: Vec<_> = kinds.iter().flat_map(|kind| list(pod, kind)).collect();
    require(!containers.is_empty(), "containers");
    for container in containers {
        let own = &container["securityContext"];
        require(own["allowPrivilegeEscalation"] == false, "allowPrivilegeEscalation");
        require(own["privileged"] != true, "privileged");
        require(own["runAsNonRoot"] != false, "runAsNonRoot of a container");
        require(own["runAsUser"] != 0, "runAsUser of a container");
        require(own["procMount"].is_null(), "procMount");
        require(own["seccompProfile"].is_null(), "seccompProfile of a container");
        require(own["capabilities"] == json!({ "drop": ["ALL"] }), "capabilities");
        require(list(container, "ports").iter().all(|port| port["hostPort"].is_null()), "hostPort");
    }
    wrong
}

/// Names of the volumes that the containers can write to, the root (`/`) among them.
pub(crate) fn writable(pod: &Value) -> Vec<&str> {
    let of = |container: &'_ Value| container["securityContext"]["readOnlyRootFilesystem"] == true;
    let roots = list(pod, "containers").iter().filter(|container| !of(container)).map(|_| "/");
    let mounts = list(pod, "containers").iter().flat_map(|container| list(container, "volumeMounts"));
    let mounts = mounts.filter(|mount| mount["readOnly"] != true);
    roots.chain(mounts.map(|mount| mount["name"].as_str().expect("a mount has a name"))).collect()
}

#[test]
fn each_rule_catches_what_it_forbids() {
    let good = json!({
        "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [{
            "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
        }],
    });
    assert_eq!(violations(&good), Vec::<String>::new());
    for (place, value) in [
        ("/hostNetwork", json!(true)),
        ("/volumes", json!([{ "name": "host", "hostPath": { "path": "/" } }])),
        ("/securityContext/runAsNonRoot", json!(false)),
        ("/securityContext/runAsUser", json!(0)),
        ("/securityContext/seccompProfile", json!({ "type": "Unconfined" })),
        ("/containers", json!([])),
        ("/containers/0/securityContext/allowPrivilegeEscalation", json!(true)),
        ("/containers/0/securityContext/runAsUser", json!(0)),
        ("/containers/0/securityContext/capabilities", json!({ "drop": ["ALL"], "add": ["SYS_ADMIN"] })),
        ("/containers/0/ports", json!([{ "containerPort": 1, "hostPort": 1 }])),
    ] {
        let mut bad = good.clone();
        let (parent, key) = place.rsplit_once('/').expect("a path");
        bad.pointer_mut(parent).expect("it is there")[key] = value;
        assert_eq!(violations(&bad).len(), 1, "{place}");
    }
}
