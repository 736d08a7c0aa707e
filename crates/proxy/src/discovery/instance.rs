//! Instances of a service, as registries give them.

use super::registry::AskError;
use milecastle_snapshot::{CompiledNode, UpstreamScheme};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest host, as in configurations.
const LONGEST_HOST: usize = 255;

/// One instance of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Instance {
    /// Name or address, an IPv6 address without brackets.
    pub(super) host: Box<str>,
    /// The port; the upstream scheme's own one if there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) port: Option<u16>,
    pub(super) weight: u32,
    /// Higher ones first.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub(super) priority: i32,
    /// The port for gRPC, where the instance has one of its own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) grpc_port: Option<u16>,
    /// What the registry says beyond that.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(super) metadata: BTreeMap<String, String>,
}

fn is_zero(priority: &i32) -> bool {
    *priority == 0
}

impl Instance {
    /// An instance in the highest tier, without metadata.
    ///
    /// # Errors
    /// The host is neither a name nor an address.
    pub(super) fn new(host: &str, port: Option<u16>, weight: u32) -> Result<Self, AskError> {
        let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let named = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        let good =
            !host.is_empty() && host.len() <= LONGEST_HOST && (named || host.parse::<std::net::Ipv6Addr>().is_ok());
        if !good || port == Some(0) {
            return Err(AskError::Malformed(format!(
                "an instance at {:?}, port {port:?}",
                host.chars().take(80).collect::<String>()
            )));
        }
        Ok(Self { host: host.into(), port, weight, priority: 0, grpc_port: None, metadata: BTreeMap::new() })
    }

    /// The node that it is of an upstream that speaks `scheme`.
    pub(super) fn node(&self, scheme: UpstreamScheme) -> Option<CompiledNode> {
        let grpc = matches!(scheme, UpstreamScheme::Grpc | UpstreamScheme::Grpcs).then_some(self.grpc_port).flatten();
        let port = grpc.or(self.port).unwrap_or_else(|| scheme.default_port());
        CompiledNode::new(&self.host, port, self.weight, self.priority, scheme)
    }
}

/// Brings instances into the order in which equal answers are equal: by host, then port, each place once
/// (`docs/spec/upstream-balancing.md` §1.4).
pub(super) fn in_order(mut instances: Vec<Instance>) -> Vec<Instance> {
    instances.sort_unstable();
    instances.dedup_by(|a, b| a.host == b.host && a.port == b.port);
    instances
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let check = |host: &str, taken: Option<&str>| {
            assert_eq!(Instance::new(host, Some(80), 1).ok().map(|instance| instance.host).as_deref(), taken, "{host}");
        };
        check("10.0.0.1", Some("10.0.0.1"));
        check("a-b_c.Test", Some("a-b_c.Test"));
        check("[::1]", Some("::1"));
        check("fd00::1", Some("fd00::1"));
        for host in ["", "a b", "a\r\nX: 1", "a/b", "::1::", "a:1", &"a".repeat(256), "ü"] {
            check(host, None);
        }
        assert!(Instance::new("a", Some(0), 1).is_err());
    }

    #[test]
    fn ports_follow_the_scheme() {
        let mut instance = Instance::new("a", None, 1).unwrap();
        let port = |instance: &Instance, scheme| instance.node(scheme).unwrap().port;
        assert_eq!([UpstreamScheme::Http, UpstreamScheme::Https].map(|scheme| port(&instance, scheme)), [80, 443]);
        instance.port = Some(8080);
        instance.grpc_port = Some(9090);
        assert_eq!([UpstreamScheme::Http, UpstreamScheme::Grpc].map(|scheme| port(&instance, scheme)), [8080, 9090]);
    }

    #[test]
    fn the_order_of_an_answer_does_not_matter() {
        let instance = |host: &str, port: u16| Instance::new(host, Some(port), 1).unwrap();
        let one = in_order(vec![instance("b", 1), instance("a", 2), instance("a", 1), instance("b", 1)]);
        assert_eq!(one, [instance("a", 1), instance("a", 2), instance("b", 1)]);
    }
}
