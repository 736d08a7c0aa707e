//! The real dnsmasq, with records of the test's.

use crate::wait::wait_for_blocking;
use crate::{Process, SOON, free_port};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;

/// A dnsmasq on a port of 127.0.0.1 that knows what it is told and nothing else. Dropping it ends it.
pub struct Dnsmasq {
    port: u16,
    running: Option<Process>,
}

impl Dnsmasq {
    /// Starts one with these records, as options of its command line: `host-record=a.test,10.0.0.1,60`,
    /// `srv-host=_x._tcp.a.test,b.test,8080,0,10`, `cname=c.test,a.test,60`. Records without a time hold for `ttl` seconds.
    ///
    /// # Panics
    /// If it is not installed: Debian has it in the package `dnsmasq-base`.
    pub fn start(ttl: u32, records: &[String]) -> Self {
        let mut server = Self { port: free_port(), running: None };
        server.set(ttl, records);
        server
    }

    /// Where it listens, also while it is stopped.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Starts it anew with other records.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn set(&mut self, ttl: u32, records: &[String]) {
        self.stop();
        let mut command = Command::new("dnsmasq");
        command
            .args(["--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--no-daemon", "--no-negcache"])
            .args(["--bind-interfaces", "--listen-address=127.0.0.1", "--local=/test/"])
            .args([format!("--port={}", self.port), format!("--local-ttl={ttl}")])
            .args(records.iter().map(|record| format!("--{record}")));
        self.running = Some(Process::start("dnsmasq", command));
        let open = || TcpStream::connect(self.address()).is_ok().then_some(());
        wait_for_blocking("dnsmasq to listen", SOON, open);
    }

    /// Ends it.
    pub fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill();
        }
    }
}
