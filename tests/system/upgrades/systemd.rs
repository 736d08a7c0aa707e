//! What systemd does for a gateway and hears of it: sockets that it has opened, and notifications.

use super::site::{START, Site};
use crate::tunnels::{open_at, say};
use milecastle_testkit::process::binary;
use milecastle_testkit::raw::Raw;
use milecastle_testkit::{Process, TempDir};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::process::Command;

/// Opens sockets as systemd does and becomes the program: `PROGRAM ARGS -- [udp:]PORT...`.
const ACTIVATE: &str = r#"
import os, socket, sys
program, wanted = sys.argv[1:sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1:]
opened = []
for text in wanted:
    kind, _, port = text.rpartition(":")
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", int(port)))
    if kind != "udp":
        s.listen(64)
    opened.append(s.detach())
high = [os.dup2(fd, 100 + n) for n, fd in enumerate(opened)]
for n, fd in enumerate(high):
    os.dup2(fd, 3 + n)
    os.close(fd)
os.environ.update(LISTEN_FDS=str(len(opened)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=":".join("unit" for _ in opened))
print("opened", flush=True)
os.execv(program[0], program)
"#;

/// Where a process that is of `Type=notify` says how it is.
struct Supervisor {
    _home: TempDir,
    path: String,
    hears: UnixDatagram,
}

impl Supervisor {
    fn new() -> Self {
        let home = TempDir::new();
        let path = home.path().join("notify").display().to_string();
        let hears = UnixDatagram::bind(&path).unwrap();
        hears.set_read_timeout(Some(START)).unwrap();
        Self { _home: home, path, hears }
    }

    /// Waits for a message with this line, and gives all of it.
    fn hear(&self, line: &str) -> Vec<String> {
        loop {
            let mut room = [0; 1024];
            let read = self.hears.recv(&mut room).unwrap();
            let said = std::str::from_utf8(&room[..read]).unwrap();
            let lines: Vec<String> = said.lines().map(str::to_owned).collect();
            if lines.iter().any(|said| said == line) {
                return lines;
            }
        }
    }
}

fn activated(site: &Site, supervisor: &Supervisor, sockets: &[String]) -> Process {
    let mut command = Command::new("python3");
    command.args(["-c", ACTIVATE]).arg(binary()).args(["gateway", "-c"]).arg(&site.config).arg("--").args(sockets);
    command.env("MILECASTLE_LOG", "info").env("NOTIFY_SOCKET", &supervisor.path);
    Process::start("gateway of systemd", command)
}

fn port(address: SocketAddr) -> String {
    address.port().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_of_systemd_are_served_and_passed_on() {
    let (site, supervisor) = (Site::new("").await, Supervisor::new());
    // The configuration has to be there for the routes to be, and so a node has to have had it.
    site.first().await.stop(START);
    let sockets = [port(site.http), port(site.status), port(site.tcp), format!("udp:{}", site.udp.port())];
    let mut first = activated(&site, &supervisor, &sockets);
    first.wait_for_line("opened", START, |line| (line == "opened").then_some(()));
    // What comes before the process serves waits for it.
    let mut early = Raw::connect(site.http).await.unwrap();
    early.send("GET /last HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    assert!(early.read_head().await.unwrap().starts_with("HTTP/1.1 202"));
    let id = format!("MAINPID={}", first.id());
    assert!(supervisor.hear("READY=1").contains(&id));
    let mut tunnel = open_at(site.http).await;
    let mut session = Raw::connect(site.tcp).await.unwrap();
    session.send("hello").await.unwrap();
    assert_eq!(session.read_exact(5).await.unwrap(), b"hello");
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    datagrams.connect(site.udp).unwrap();
    datagrams.set_read_timeout(Some(START)).unwrap();
    datagrams.send(b"hello").unwrap();
    assert_eq!(datagrams.recv(&mut [0; 8]).unwrap(), 5);
    // A reload has another process take over, which then is the main one.
    site.signal(&mut first);
    supervisor.hear("RELOADING=1");
    let said = supervisor.hear("READY=1");
    let successor: u32 = said.iter().find_map(|line| line.strip_prefix("MAINPID=")).unwrap().parse().unwrap();
    assert_ne!(successor, first.id());
    say(&mut tunnel, b"after").await;
    assert_eq!(site.census().await["process"]["pid"], successor);
    drop((tunnel, session, early));
    assert!(Command::new("kill").arg(successor.to_string()).status().unwrap().success());
    assert!(supervisor.hear("STOPPING=1").len() > 1);
    assert!(first.wait_for_end(START).success());
    assert_eq!(first.unannounced(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_no_listener_takes_is_an_error_and_a_reload_that_fails_is_told() {
    let (site, supervisor) = (Site::new("").await, Supervisor::new());
    let mut first = site.first().await;
    first.announce("did not take over");
    let other = milecastle_testkit::free_port();
    // It has to have sockets of its own, else its ports are taken.
    let file = std::fs::read_to_string(&site.config).unwrap();
    first.signal(15);
    assert!(first.wait_for_end(START).success());
    let sockets = [port(site.http), other.to_string()];
    let mut refused = activated(&site, &supervisor, &sockets);
    assert_eq!(refused.wait_for_end(START).code(), Some(1));
    // A successor that cannot read its file.
    let mut running = activated(&site, &supervisor, &sockets[..1]);
    supervisor.hear("READY=1");
    std::fs::write(&site.config, "nonsense: true\n").unwrap();
    running.signal(12);
    supervisor.hear("RELOADING=1");
    let own = format!("MAINPID={}", running.id());
    assert!(supervisor.hear("READY=1").contains(&own));
    std::fs::write(&site.config, file).unwrap();
    running.stop(START);
    let refused = refused.log();
    let expected = format!("systemd has opened TCP 127.0.0.1:{other} (unit), on which this node does not listen");
    assert!(refused.iter().any(|line| line.contains(&expected)), "{refused:?}");
}
