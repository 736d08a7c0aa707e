//! The real HAProxy with the sample of `deploy/haproxy`, of which only addresses differ, and what would hide failures.

use milecastle_testkit::{Process, TempDir};
use milecastle_tests::free;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;

const SAMPLE: &str = include_str!("../../../deploy/haproxy/haproxy.cfg");

/// A server behind the load balancer.
#[derive(Clone, Copy)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    /// Where the load balancer asks whether it may send.
    pub(super) probe: SocketAddr,
}

/// HAProxy. It ends with this value.
pub(super) struct Balancer {
    _process: Process,
    frontends: BTreeMap<String, SocketAddr>,
}

impl Balancer {
    /// Starts one with the sample's backends filled like this; those that are not named have no server. It sends nothing a
    /// second time, and to no other server than it chose first: `retries 0`, no `option redispatch`.
    pub(super) fn start(dir: &TempDir, name: &str, backends: &[(&str, Vec<Server>)]) -> Self {
        let (config, frontends) = adapted(SAMPLE, backends);
        let file = dir.write(&format!("{name}.cfg"), config);
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(file);
        Self { _process: Process::start(&format!("haproxy {name}"), command), frontends }
    }

    /// Where a frontend of the sample listens here.
    pub(super) fn frontend(&self, name: &str) -> SocketAddr {
        *self.frontends.get(name).unwrap_or_else(|| panic!("the sample has no frontend {name}"))
    }
}

/// The sample with other addresses and without second tries, and where its frontends then are.
fn adapted(sample: &str, backends: &[(&str, Vec<Server>)]) -> (String, BTreeMap<String, SocketAddr>) {
    let (mut config, mut frontends) = (String::new(), BTreeMap::new());
    let mut section = ("", "");
    let mut filled = Vec::new();
    for line in sample.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [kind @ ("global" | "defaults"), ..] => section = (kind, ""),
            [kind @ ("frontend" | "backend"), name] => section = (kind, name),
            ["option", "redispatch"] => continue,
            ["retries", _] => {
                config += "    retries 0\n";
                continue;
            }
            ["bind", _] => {
                let address = free();
                frontends.insert(section.1.to_owned(), address);
                config += &format!("    bind {address}\n");
                continue;
            }
            ["server", ..] => {
                let given = backends.iter().find(|(name, _)| *name == section.1);
                if let Some((name, servers)) = given.filter(|(name, _)| !filled.contains(name)) {
                    filled.push(name);
                    for (n, Server { address, probe }) in servers.iter().enumerate() {
                        config += &format!("    server {name}-{n} {address} check port {}\n", probe.port());
                    }
                }
                continue;
            }
            _ => {}
        }
        config += line;
        config.push('\n');
    }
    assert_eq!(filled.len(), backends.len(), "the sample lacks a backend: it has {filled:?}");
    (config, frontends)
}
