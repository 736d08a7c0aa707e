//! Servers of others, each saying on its standard output how it has read every request.

use super::corpus::{Passed, folder};
use milecastle_testkit::{Process, SOON, TempDir, free_port};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

/// A running server.
pub(super) struct Origin {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    /// Requests (method, target, host) that it answers with an error of its own, though the gateway lets them pass.
    pub(super) refuses: &'static [&'static str],
    process: Process,
    _dir: TempDir,
}

/// A request as a server has read it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) target: String,
    /// The path that programs on this server get to see.
    pub(super) path: String,
    pub(super) host: String,
    pub(super) body: String,
}

impl Seen {
    /// What a case expects. The path that programs see is the decoded one of the target.
    pub(super) fn expected(passed: &Passed) -> Self {
        let path = passed.target.split('?').next().unwrap_or_default();
        Self {
            method: passed.method.clone(),
            // To some servers an empty query is none.
            target: passed.target.trim_end_matches('?').to_owned(),
            path: decode(path),
            host: passed.host.clone(),
            body: String::from_utf8_lossy(&passed.body).into_owned(),
        }
    }
}

/// Undoes percent-encoding.
fn decode(path: &str) -> String {
    let mut parts = path.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(digits, 16).unwrap());
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Origin {
    fn start(
        name: &'static str,
        command: Command,
        dir: TempDir,
        port: Option<u16>,
        refuses: &'static [&'static str],
    ) -> Self {
        let mut process = Process::start(name, command);
        let port = port.unwrap_or_else(|| {
            process.wait_for_line("its port", SOON, |line| {
                let end = line.split("http://127.0.0.1:").nth(1).or_else(|| line.split("listening on ").nth(1))?;
                end.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
            })
        });
        Self { name, address: (Ipv4Addr::LOCALHOST, port).into(), refuses, process, _dir: dir }
    }

    /// All requests so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        let log = self.process.log();
        let said = log.iter().filter_map(|line| line.strip_prefix("seen "));
        let said =
            said.map(|text| serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{error}: {text}")));
        // nginx says as well what it has answered, since it speaks of requests that were cut off too.
        let whole = said.filter(|said| said.get("status").is_none_or(|status| status == "200"));
        let text = |said: &Value, name: &str| said[name].as_str().unwrap_or_default().to_owned();
        whole
            .map(|said| Seen {
                method: text(&said, "method"),
                target: text(&said, "target").trim_end_matches('?').to_owned(),
                path: text(&said, "path"),
                host: text(&said, "host"),
                body: text(&said, "body"),
            })
            .collect()
    }
}

fn origins() -> PathBuf {
    folder().join("origins")
}

/// Methods that are no upper-case words, and an empty Host.
const NGINX_REFUSES: [&str; 5] =
    ["GET /h ", "GET /old ", "Get /m a.test", "X!#$%&'*+-.^_`|~9 /m a.test", "get /m a.test"];

pub(super) fn nginx() -> Origin {
    let (dir, port) = (TempDir::new(), free_port());
    let config = std::fs::read_to_string(origins().join("nginx.conf")).unwrap();
    let config = config.replace("DIR", dir.path().to_str().unwrap()).replace("PORT", &port.to_string());
    let file = dir.write("nginx.conf", config);
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir.path()).arg("-c").arg(file).args(["-e", "stderr"]);
    Origin::start("nginx", command, dir, Some(port), &NGINX_REFUSES)
}

/// Methods that it does not know.
const NODE_REFUSES: [&str; 5] =
    ["GETGET /m a.test", "Get /m a.test", "X /m a.test", "X!#$%&'*+-.^_`|~9 /m a.test", "get /m a.test"];

pub(super) fn node() -> Origin {
    let mut command = Command::new("node");
    command.arg(origins().join("origin.mjs"));
    Origin::start("node", command, TempDir::new(), None, &NODE_REFUSES)
}

pub(super) fn uvicorn() -> Origin {
    let mut command = python("uvicorn");
    command.args(["--port", "0", "--no-access-log", "origin:asgi"]);
    Origin::start("uvicorn", command, TempDir::new(), None, &[])
}

pub(super) fn gunicorn() -> Origin {
    let mut command = python("gunicorn");
    command.args(["--bind", "127.0.0.1:0", "--worker-class", "gthread", "--threads", "4"]);
    command.args(["--limit-request-line", "0", "--permit-unconventional-http-method", "origin:wsgi"]);
    Origin::start("gunicorn", command, TempDir::new(), None, &[])
}

/// A program that serves what is in the folder of the origins.
fn python(program: &str) -> Command {
    let mut command = milecastle_tests::python("python", program);
    command.current_dir(origins());
    command
}
