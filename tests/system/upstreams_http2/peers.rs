//! grpcio, the gRPC implementation of others, on both sides of the gateway.

use milecastle_testkit::tls::Identity;
use milecastle_testkit::{Process, SOON, TempDir, eventually};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long a client may take, with the load of other tests beside it.
const CLIENT: Duration = Duration::from_secs(120);

/// A script of `tests/grpc`.
fn python(script: &str) -> Command {
    let mut command = milecastle_tests::python("grpc", "python");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("grpc").join(script));
    command
}

/// A gRPC server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    process: Process,
    _dir: TempDir,
}

/// What a server asks of its clients over TLS.
pub(super) struct ServerTls<'a> {
    pub(super) identity: &'a Identity,
    /// Authority of the certificates that clients must show.
    pub(super) client_ca: Option<&'a str>,
}

impl Server {
    /// Without TLS; `options` are channel arguments, `name=integer`.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::run(None, options)
    }

    pub(super) fn tls(tls: &ServerTls<'_>) -> Self {
        Self::run(Some(tls), &[])
    }

    fn run(tls: Option<&ServerTls<'_>>, options: &[&str]) -> Self {
        let (mut command, dir) = (python("server.py"), TempDir::new());
        if let Some(tls) = tls {
            command.arg("--cert").arg(dir.write("cert.pem", &tls.identity.cert));
            command.arg("--key").arg(dir.write("key.pem", &tls.identity.key));
            if let Some(ca) = tls.client_ca {
                command.arg("--client-ca").arg(dir.write("ca.pem", ca));
            }
        }
        command.args(options.iter().map(|option| format!("--option={option}")));
        let mut process = Process::start("gRPC server", command);
        let port: u16 =
            process.wait_for_line("its port", SOON, |line| line.strip_prefix("listening on ")?.parse().ok());
        Self { address: (Ipv4Addr::LOCALHOST, port).into(), process, _dir: dir }
    }

    /// All that it has said of its calls.
    pub(crate) fn seen(&self) -> Vec<Value> {
        let log = self.process.log();
        log.iter().filter_map(|line| serde_json::from_str(line.strip_prefix("seen ")?).ok()).collect()
    }

    /// Waits until what it has said of the last call of a method is so, and gives that: it says it before it answers, but through a
    /// pipe.
    pub(super) async fn says(&self, method: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let last = || self.seen().into_iter().rfind(|seen| seen["method"] == method).filter(&is_so);
        eventually("the server says so of the last call", async || last().is_some()).await;
        last().expect("nobody has called meanwhile")
    }

    /// Waits until it has seen a call end before its time.
    pub(crate) async fn sees_cancellation(&self) {
        eventually("the server sees the call cancelled", async || {
            self.seen().iter().any(|seen| seen["cancelled"] == true)
        })
        .await;
    }
}

/// Makes calls through the gateway at `address` as `kind` of `client.py` says, and tells how they went.
pub(crate) async fn call(address: SocketAddr, kind: &str, asked: Value) -> Value {
    let mut command = python("client.py");
    command.args([&address.to_string(), kind, &asked.to_string()]);
    let what = format!("the end of {kind}");
    let run = tokio::task::spawn_blocking(move || {
        let mut client = Process::start("gRPC client", command);
        client.wait_for_line(&what, CLIENT, |line| serde_json::from_str(line.strip_prefix("ended ")?).ok())
    });
    run.await.unwrap()
}
