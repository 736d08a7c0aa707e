//! Networks of network namespaces, in which links can be cut: packets are dropped on their way, and nobody is told.
//!
//! ```text
//!  test, replicas ─── router ─── gateway      configuration
//!        └──────── traffic ─────────┘         requests, upstreams
//! ```
//! Needs root, and the program `ip` (iproute2).

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cluster::Place;

/// Says that tests which need network namespaces are to be left out.
const LEAVE_OUT: &str = "MILECASTLE_TEST_NO_NAMESPACES";

/// Whether tests that need namespaces are left out, which is said.
pub(crate) fn left_out() -> bool {
    let left_out = std::env::var_os(LEAVE_OUT).is_some();
    if left_out {
        eprintln!("left out, for {LEAVE_OUT} is set: this test needs namespaces");
    }
    left_out
}

/// The network. Dropped, it is gone; what runs in it should have ended before.
pub struct Network {
    router: String,
    gateway: String,
    /// The first of its 16 addresses.
    base: Ipv4Addr,
}

impl Network {
    /// Makes it; `None` if the environment variable `MILECASTLE_TEST_NO_NAMESPACES` is set.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if left_out() {
            return None;
        }
        let (process, n) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let name = |what: &str| format!("mc-{process}-{n}-{what}");
        // One of the 2^19 blocks of 10.128.0.0/9.
        let block = process.wrapping_mul(8).wrapping_add(n) & 0x7_ffff;
        let base = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + block * 16);
        let network = Self { router: name("router"), gateway: name("gateway"), base };
        network.make(&format!("mc{process}-{n}"));
        Some(network)
    }

    fn make(&self, link: &str) {
        let Self { router, gateway, base } = self;
        let [one, two, up, down, control, ours, traffic] = [1, 2, 3, 9, 10, 13, 14].map(|n| self.address(n));
        let towards_gateway = self.address(8);
        for step in [
            format!("netns add {router}"),
            format!("netns add {gateway}"),
            format!("link add {link}r type veth peer name north netns {router}"),
            format!("link add {link}g type veth peer name traffic netns {gateway}"),
            format!("-n {router} link add south type veth peer name control netns {gateway}"),
            format!("addr add {one}/29 dev {link}r"),
            format!("addr add {two}/29 dev {link}r"),
            format!("addr add {ours}/30 dev {link}g"),
            format!("link set {link}r up"),
            format!("link set {link}g up"),
            format!("-n {router} addr add {up}/29 dev north"),
            format!("-n {router} addr add {down}/30 dev south"),
            format!("-n {router} link set north up"),
            format!("-n {router} link set south up"),
            format!("-n {gateway} addr add {control}/30 dev control"),
            format!("-n {gateway} addr add {traffic}/30 dev traffic"),
            format!("-n {gateway} link set lo up"),
            format!("-n {gateway} link set control up"),
            format!("-n {gateway} link set traffic up"),
            format!("-n {gateway} route add {base}/29 via {down}"),
            format!("route add {towards_gateway}/30 via {up}"),
            format!("netns exec {router} sysctl -q -w net.ipv4.ip_forward=1"),
        ] {
            ip(&step);
        }
    }

    /// Where a replica listens for nodes, the first or the second one.
    pub fn replica(&self, number: u32) -> Ipv4Addr {
        assert!((1..=2).contains(&number), "there are two");
        self.address(number)
    }

    /// Where an upstream listens.
    pub fn upstream(&self) -> Ipv4Addr {
        self.address(13)
    }

    /// Where the gateway runs.
    pub fn place(&self) -> Place<'_> {
        Place { namespace: &self.gateway, address: self.address(14) }
    }

    /// From here on, packets from and to a replica are dropped between it and the gateway.
    pub fn cut(&self, replica: Ipv4Addr) {
        self.rules("add", replica);
    }

    /// Packets pass again.
    pub fn mend(&self, replica: Ipv4Addr) {
        self.rules("del", replica);
    }

    fn rules(&self, what: &str, replica: Ipv4Addr) {
        for direction in ["from", "to"] {
            ip(&format!("-n {} rule {what} blackhole {direction} {replica}", self.router));
        }
    }

    fn address(&self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + n)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The links go with their ends. A failure here would only hide the one that the test ended with.
        for namespace in [&self.router, &self.gateway] {
            drop(Command::new("ip").args(["netns", "del", namespace]).status());
        }
    }
}

fn ip(arguments: &str) {
    let hint = format!("these tests need root and iproute2; where that is not to be had, set {LEAVE_OUT}=1");
    let done = Command::new("ip").args(arguments.split(' ')).output();
    let done = done.unwrap_or_else(|error| panic!("cannot run ip: {error}; {hint}"));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "`ip {arguments}` failed: {}; {hint}", said.trim());
}
