//! The registry `dns`: names of the Domain Name System.
//!
//! `service_name` is `name` or `name:port`. Records of the first kind in `order` that the name has are its instances. What SRV
//! records say of port, weight and priority is taken over; an explicit port wins.

use super::instance::Instance;
use super::registries::DiscoveryError;
use super::registry::{Answer, AskError, Asking, Position, Registry};
use crate::dns::{Client, Data, Found, Kind, Name, ResolvConf};
use milecastle_settings::{DnsDiscovery, DnsOrder};
use milecastle_snapshot::ServiceQuery;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Names of which the kind of the last success is remembered; beyond it, all are forgotten.
const MOST_REMEMBERED: usize = 10_000;

/// Asks resolvers.
pub(super) struct Dns {
    client: Client,
    order: Vec<DnsOrder>,
    min_ttl: Duration,
    max_ttl: Duration,
    /// The kind that a name had the last time.
    last: Mutex<BTreeMap<Box<str>, Kind>>,
}

impl Dns {
    pub(super) fn new(settings: &DnsDiscovery) -> Result<Self, DiscoveryError> {
        let servers = match &settings.resolv_conf {
            None => settings.servers.iter().map(|server| server.0).collect(),
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|source| DiscoveryError::ResolvConf { path: path.clone(), source })?;
                ResolvConf::parse(&text).servers
            }
        };
        Ok(Self {
            client: Client::new(servers, settings.timeout.get(), settings.tries),
            order: settings.order.clone(),
            min_ttl: settings.min_ttl.get(),
            max_ttl: settings.max_ttl.get(),
            last: Mutex::default(),
        })
    }

    async fn find(&self, service: &str) -> Result<Answer, AskError> {
        let (host, port) = split_port(service)?;
        let name = Name::parse(host).ok_or(AskError::Name("expected `name` or `name:port`"))?;
        let mut holds = None;
        for kind in self.kinds(host) {
            let found = self.client.find(&name, kind).await?;
            holds = shorter(holds, found.ttl);
            let (instances, ttl) = match kind {
                Kind::Srv => self.services(&found, port).await?,
                Kind::A | Kind::Aaaa => (addresses(&found, port)?, found.ttl),
            };
            if !instances.is_empty() {
                self.remember(host, kind);
                return Ok(self.answer(instances, ttl));
            }
        }
        // The shortest time that one of the resolvers' "there is none" holds.
        Ok(self.answer(Vec::new(), holds))
    }

    fn answer(&self, instances: Vec<Instance>, ttl: Option<Duration>) -> Answer {
        Answer::of(instances, ttl.unwrap_or(self.min_ttl).clamp(self.min_ttl, self.max_ttl))
    }

    /// The kinds of records to ask for, in order, each once.
    fn kinds(&self, host: &str) -> Vec<Kind> {
        let mut kinds = Vec::with_capacity(3);
        for order in &self.order {
            let kind = match order {
                DnsOrder::Last => self.last.lock().unwrap_or_else(PoisonError::into_inner).get(host).copied(),
                DnsOrder::Srv => Some(Kind::Srv),
                DnsOrder::A => Some(Kind::A),
                DnsOrder::Aaaa => Some(Kind::Aaaa),
                // Aliases are followed whatever is asked for.
                DnsOrder::Cname => None,
            };
            kinds.extend(kind.filter(|kind| !kinds.contains(kind)));
        }
        kinds
    }

    fn remember(&self, host: &str, kind: Kind) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= MOST_REMEMBERED && !last.contains_key(host) {
            last.clear();
        }
        last.insert(host.into(), kind);
    }

    /// The instances that SRV records lead to: every address of every target. One whose target has no address is left out.
    async fn services(&self, found: &Found, port: Option<u16>) -> Result<(Vec<Instance>, Option<Duration>), AskError> {
        let mut holds = found.ttl;
        let mut targets = Vec::new();
        for record in &found.records {
            let Data::Service { priority, weight, port: own, target } = &record.data else { continue };
            if target.is_root() {
                continue;
            }
            let mut addresses: Vec<IpAddr> =
                found.additional.iter().filter(|(name, _)| name == target).map(|(_, ip)| *ip).collect();
            for kind in [Kind::A, Kind::Aaaa] {
                if addresses.is_empty() {
                    let of_target = self.client.find(target, kind).await?;
                    holds = if of_target.records.is_empty() { holds } else { shorter(holds, of_target.ttl) };
                    addresses.extend(of_target.records.iter().filter_map(|record| match record.data {
                        Data::Address(ip) => Some(ip),
                        _ => None,
                    }));
                }
            }
            targets.push(Target {
                priority: *priority,
                weight: (*weight).max(1),
                port: port.unwrap_or(*own),
                addresses,
            });
        }
        Ok((instances(&targets)?, holds))
    }
}

impl Registry for Dns {
    fn ask<'a>(&'a self, service: &'a ServiceQuery, _: Option<Position>) -> Asking<'a> {
        Box::pin(self.find(&service.name))
    }
}

/// What an SRV record leads to.
struct Target {
    priority: u16,
    weight: u16,
    port: u16,
    addresses: Vec<IpAddr>,
}

/// The weight of a record is shared by the addresses of its target; all weights are scaled so that they are whole.
fn instances(targets: &[Target]) -> Result<Vec<Instance>, AskError> {
    let counts = targets.iter().map(|target| target.addresses.len() as u64).filter(|count| *count > 0);
    // Beyond that, shares are rounded; weights are at most 65535, so that the product fits.
    let scale = counts.fold(1, |scale, count| (scale / gcd(scale, count)).saturating_mul(count)).min(60_000);
    let weight = |target: &Target| (u64::from(target.weight) * scale / target.addresses.len().max(1) as u64).max(1);
    let divisor = targets.iter().filter(|target| !target.addresses.is_empty()).map(weight).fold(0, gcd).max(1);
    let mut instances = Vec::new();
    for target in targets {
        let weight = u32::try_from(weight(target) / divisor).unwrap_or(u32::MAX);
        for ip in &target.addresses {
            let mut instance = Instance::new(&ip.to_string(), Some(target.port), weight)?;
            instance.priority = -i32::from(target.priority);
            instances.push(instance);
        }
    }
    Ok(instances)
}

fn addresses(found: &Found, port: Option<u16>) -> Result<Vec<Instance>, AskError> {
    let addresses = found.records.iter().filter_map(|record| match record.data {
        Data::Address(ip) => Some(ip),
        _ => None,
    });
    addresses.map(|ip| Instance::new(&ip.to_string(), port, 1)).collect()
}

fn split_port(service: &str) -> Result<(&str, Option<u16>), AskError> {
    let Some((host, port)) = service.rsplit_once(':') else { return Ok((service, None)) };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if digits && port > 0 => Ok((host, Some(port))),
        _ => Err(AskError::Name("expected `name` or `name:port`, with a port from 1 to 65535")),
    }
}

fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        for (text, expected) in
            [("a.test", Some(("a.test", None))), ("_x._tcp.svc:80", Some(("_x._tcp.svc", Some(80))))]
        {
            assert_eq!(split_port(text).ok(), expected, "{text}");
        }
        for text in ["a:", "a:0", "a:+1", "a:65536", "a:b"] {
            assert!(split_port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn weights_are_shared_and_whole() {
        let target = |priority, weight, count: u8| Target {
            priority,
            weight,
            port: 80,
            addresses: (1..=count).map(|last| IpAddr::from([10, 0, count, last])).collect(),
        };
        let check = |targets: &[Target], expected: &[(i32, u32)]| {
            let found = instances(targets).unwrap();
            let shown: Vec<(i32, u32)> = found.iter().map(|instance| (instance.priority, instance.weight)).collect();
            assert_eq!(shown, expected);
        };
        check(&[], &[]);
        check(&[target(0, 10, 1), target(1, 20, 1)], &[(0, 1), (-1, 2)]);
        check(&[target(0, 1, 2), target(0, 1, 3)], &[(0, 3), (0, 3), (0, 2), (0, 2), (0, 2)]);
        check(&[target(0, 4, 2), target(0, 2, 0), target(0, 1, 1)], &[(0, 2), (0, 2), (0, 1)]);
        check(&[target(0, 65_535, 1), target(0, 1, 1)], &[(0, 65_535), (0, 1)]);
    }
}
