//! Looks at what is up and what is down (docs/cluster-view.md).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::load::Checks;
use crate::{Peers, Time};

/// How whoever leads looks at the cluster, its parts and its probes, and how long that is kept. The same on all replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Availability {
    /// How often it looks.
    pub look: Time,
    /// How long a probe may take, resolving its name and connecting included; shorter than `look`.
    pub timeout: Time,
    /// How long history is kept.
    pub keep: Time,
    /// Probes of addresses that there may be.
    #[schemars(range(min = 1, max = 1000), extend("x-unit" = "probes"))]
    pub most_probes: u32,
    /// Networks in which nothing is probed, whatever a name resolves to: by default the replicas' own machines, and link-local
    /// addresses, where machines of clouds find their credentials.
    pub deny: Vec<Peers>,
}

impl Availability {
    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        let mut checks = checks.at("availability");
        checks.above_zero(&[("look", self.look), ("timeout", self.timeout), ("keep", self.keep)]);
        if self.timeout >= self.look {
            checks.fault("timeout", "expected less than `availability.look`");
        }
    }
}

impl Default for Availability {
    fn default() -> Self {
        // Hosts themselves, what is reached by no router, and where clouds hand out credentials.
        let deny = [
            "0.0.0.0/8",
            "100.100.100.200/32",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/4",
            "::/127",
            "fd00:ec2::254/128",
            "fe80::/10",
            "ff00::/8",
        ];
        Self {
            look: Time::secs(30),
            timeout: Time::secs(5),
            keep: Time::secs(30 * 86_400),
            most_probes: 100,
            deny: deny.iter().filter_map(|network| network.parse().ok()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_networks_that_are_denied_are_networks() {
        assert_eq!(Availability::default().deny.len(), 9);
    }
}
