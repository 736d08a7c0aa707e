//! What is read of the API server's objects (`v1` Endpoints, `discovery.k8s.io/v1` EndpointSlices).

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The label that says of which service a slice is.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// An object of either kind, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
    /// The service that it belongs to.
    pub(super) service: Box<str>,
    /// What can take requests now.
    pub(super) places: Vec<Place>,
}

/// One address and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The port's name, or its number where it has none.
    pub(super) label: Box<str>,
    pub(super) host: Box<str>,
    pub(super) port: u16,
}

/// One page of a list.
#[derive(Deserialize)]
pub(super) struct List {
    pub(super) metadata: ListMeta,
    #[serde(default)]
    pub(super) items: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListMeta {
    #[serde(default)]
    pub(super) resource_version: String,
    /// Where the next page begins; empty at the last one.
    #[serde(default, rename = "continue")]
    pub(super) next: Option<String>,
}

/// One line of a watch.
#[derive(Deserialize)]
pub(super) struct Event {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) object: Value,
}

/// Of a `Status`, which tells of a fault.
#[derive(Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    pub(super) code: u16,
    #[serde(default)]
    pub(super) message: String,
}

#[derive(Deserialize)]
struct Any {
    metadata: Meta,
    /// Of Endpoints.
    #[serde(default)]
    subsets: Option<Vec<Subset>>,
    /// Of EndpointSlices.
    #[serde(default)]
    endpoints: Option<Vec<Endpoint>>,
    #[serde(default)]
    ports: Option<Vec<Port>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    namespace: Box<str>,
    #[serde(default)]
    name: Box<str>,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, Box<str>>>,
}

#[derive(Deserialize)]
struct Subset {
    #[serde(default)]
    addresses: Option<Vec<Address>>,
    #[serde(default)]
    ports: Option<Vec<Port>>,
}

#[derive(Deserialize)]
struct Address {
    ip: Box<str>,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(default)]
    addresses: Option<Vec<Box<str>>>,
    #[serde(default)]
    conditions: Option<Conditions>,
}

#[derive(Deserialize, Default)]
struct Conditions {
    ready: Option<bool>,
}

#[derive(Deserialize)]
struct Port {
    #[serde(default)]
    name: Option<Box<str>>,
    port: Option<u16>,
}

impl Port {
    /// What it is asked for by, and its number; `None` where it stands for all ports.
    fn known(&self) -> Option<(Box<str>, u16)> {
        let port = self.port?;
        let name = self.name.clone().filter(|name| !name.is_empty());
        Some((name.unwrap_or_else(|| port.to_string().into()), port))
    }
}

/// Reads an object; beside it, its resource version.
pub(super) fn read(value: Value) -> serde_json::Result<(Object, String)> {
    let Any { metadata, subsets, endpoints, ports } = serde_json::from_value(value)?;
    let Meta { namespace, name, resource_version, labels } = metadata;
    let mut places = Vec::new();
    for subset in subsets.iter().flatten() {
        let hosts = subset.addresses.iter().flatten().map(|address| &address.ip);
        add(&mut places, hosts, &subset.ports);
    }
    for endpoint in endpoints.iter().flatten() {
        // Nobody having said whether it is ready means that it is.
        if endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false) {
            // All addresses of one endpoint are the same one: the first is meant to be used.
            add(&mut places, endpoint.addresses.iter().flatten().take(1), &ports);
        }
    }
    let service = labels.and_then(|mut labels| labels.remove(SERVICE_NAME)).unwrap_or_else(|| name.clone());
    Ok((Object { namespace, name, service, places }, resource_version))
}

fn add<'a>(places: &mut Vec<Place>, hosts: impl Iterator<Item = &'a Box<str>>, ports: &Option<Vec<Port>>) {
    for host in hosts {
        let ports = ports.iter().flatten().filter_map(Port::known);
        places.extend(ports.map(|(label, port)| Place { label, host: host.clone(), port }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(object: Value, service: &str, expected: &[(&str, &str, u16)]) {
        let (read, version) = read(object.clone()).unwrap();
        let shown: Vec<_> = read.places.iter().map(|place| (&*place.label, &*place.host, place.port)).collect();
        assert_eq!((&*read.service, shown.as_slice(), version.as_str()), (service, expected, "7"), "{object}");
    }

    #[test]
    fn endpoints() {
        let metadata = json!({ "namespace": "default", "name": "web", "resourceVersion": "7" });
        let subsets = json!([
            { "addresses": [{ "ip": "10.0.0.1" }, { "ip": "10.0.0.2" }], "notReadyAddresses": [{ "ip": "10.0.0.3" }],
              "ports": [{ "name": "http", "port": 8080 }, { "name": "grpc", "port": 9090 }] },
            { "addresses": [{ "ip": "10.0.0.4" }], "ports": [{ "port": 80 }] },
            { "notReadyAddresses": [{ "ip": "10.0.0.5" }], "ports": [{ "port": 80 }] },
        ]);
        check(
            json!({ "metadata": metadata, "subsets": subsets }),
            "web",
            &[
                ("http", "10.0.0.1", 8080),
                ("grpc", "10.0.0.1", 9090),
                ("http", "10.0.0.2", 8080),
                ("grpc", "10.0.0.2", 9090),
                ("80", "10.0.0.4", 80),
            ],
        );
        check(json!({ "metadata": metadata, "subsets": null }), "web", &[]);
    }

    #[test]
    fn slices() {
        let labels = json!({ "kubernetes.io/service-name": "web" });
        let metadata = json!({ "namespace": "default", "name": "web-abc", "resourceVersion": "7", "labels": labels });
        let endpoints = json!([
            { "addresses": ["10.0.0.1"], "conditions": { "ready": true } },
            { "addresses": ["10.0.0.2"], "conditions": { "ready": false, "serving": true } },
            { "addresses": ["10.0.0.3", "10.0.0.4"], "conditions": {} },
            { "addresses": ["fd00::1"] },
        ]);
        let ports =
            json!([{ "name": "http", "port": 8080 }, { "name": "", "port": 81 }, { "name": "all", "port": null }]);
        check(
            json!({ "metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": ports }),
            "web",
            &[
                ("http", "10.0.0.1", 8080),
                ("81", "10.0.0.1", 81),
                ("http", "10.0.0.3", 8080),
                ("81", "10.0.0.3", 81),
                ("http", "fd00::1", 8080),
                ("81", "fd00::1", 81),
            ],
        );
        check(json!({ "metadata": metadata, "endpoints": null, "ports": null }), "web", &[]);
    }
}
