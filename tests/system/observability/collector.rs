//! An OpenTelemetry collector: `tests/otlp/collector.py`, with the official messages.

use milecastle_testkit::tls::Identity;
use milecastle_testkit::{Process, SOON, TempDir, wait_for};
use milecastle_tests::python;
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

pub(super) struct Collector {
    pub(super) address: SocketAddr,
    process: Process,
    _dir: TempDir,
}

impl Collector {
    pub(super) fn start() -> Self {
        Self::run(None)
    }

    /// Over TLS.
    pub(super) fn tls(identity: &Identity) -> Self {
        Self::run(Some(identity))
    }

    fn run(tls: Option<&Identity>) -> Self {
        let (mut command, dir) = (python("otlp", "python"), TempDir::new());
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("otlp/collector.py"));
        if let Some(identity) = tls {
            command.arg("--cert").arg(dir.write("cert.pem", &identity.cert));
            command.arg("--key").arg(dir.write("key.pem", &identity.key));
        }
        let mut process = Process::start("collector", command);
        let port: u16 =
            process.wait_for_line("its port", SOON, |line| line.strip_prefix("listening on ")?.parse().ok());
        Self { address: (Ipv4Addr::LOCALHOST, port).into(), process, _dir: dir }
    }

    /// All spans and metrics that it has got.
    pub(super) fn got(&self) -> Vec<Value> {
        let log = self.process.log();
        log.iter().filter_map(|line| serde_json::from_str(line.strip_prefix("got ")?).ok()).collect()
    }

    /// Waits for one of them.
    pub(super) async fn gets(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, SOON, async || self.got().into_iter().find(&is_it)).await
    }
}
