//! A control plane, and gateways that follow each other on one state directory.

use crate::tunnels::chat;
use milecastle_testkit::process::binary;
use milecastle_testkit::raw::Raw;
use milecastle_testkit::tls::Authority;
use milecastle_testkit::{Answer, Call, Echo, Process, Target, eventually, free_port};
use milecastle_tests::{ADMIN_KEY, Said, Up};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a start may take on a busy machine.
pub(crate) const START: Duration = Duration::from_secs(60);
const USR2: i32 = 12;

/// Where gateways follow each other.
pub(crate) struct Site {
    pub(crate) up: Up,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    /// Of the certificate of `localhost`, in PEM.
    pub(crate) ca: String,
    pub(crate) status: SocketAddr,
    pub(crate) control: SocketAddr,
    pub(crate) tcp: SocketAddr,
    pub(crate) udp: SocketAddr,
    pub(crate) config: PathBuf,
    echo: Echo,
    pub(crate) long: Long,
}

/// An upstream that begins to answer at once, and ends when it is let to.
pub(crate) struct Long {
    pub(crate) address: SocketAddr,
    over: Arc<AtomicBool>,
}

impl Long {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, over) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let is_over = over.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let over = is_over.clone();
                std::thread::spawn(move || answer_long(&mut stream, &over));
            }
        });
        Self { address, over }
    }

    /// Lets all answers end.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }
}

fn answer_long(stream: &mut TcpStream, over: &AtomicBool) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read > 0) {
        head.push(byte[0]);
    }
    let begin = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n";
    let mut sent = stream.write_all(begin);
    // A piece now and then: the upstream's silence is not what is looked at.
    while sent.is_ok() && !over.load(Ordering::Acquire) {
        std::thread::park_timeout(Duration::from_millis(200));
        sent = stream.write_all(b"1\r\n.\r\n");
    }
    // Who is cut says so on its own side.
    drop(sent.and_then(|()| stream.write_all(b"3\r\nend\r\n0\r\n\r\n")));
}

async fn put_answer(up: &Up, echo: &Echo, id: &str, text: &str) {
    let route = json!({
        "uri": format!("/{id}"),
        "plugins": { "response-rewrite": { "status_code": 202, "body": text } },
        "upstream": { "nodes": { echo.address().to_string(): 1 } },
    });
    up.put(&format!("/routes/{id}"), route).await;
}

/// A server that sends every byte back.
fn back_tcp() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    address
}

/// A server that sends every datagram back.
fn back_udp() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut room = [0; 1024];
        while let Ok((read, peer)) = socket.recv_from(&mut room) {
            socket.send_to(&room[..read], peer).unwrap();
        }
    });
    address
}

impl Site {
    /// A control plane with routes for everything, and the file of the gateways; none of them runs yet.
    pub(crate) async fn new(settings: &str) -> Self {
        let manager = free_port();
        let manager_variable = manager.to_string();
        let mut up = Up::start_with(&[("MILECASTLE__DP_MANAGER__SERVER__LISTEN__PORT", &manager_variable)]);
        let [http, https, status, control, tcp, udp] =
            [(); 6].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
        let data = up.data.path();
        let file = format!(
            "workers: 2\n\
             control_plane: {{ endpoints: ['https://127.0.0.1:{manager}'], group_token_file: {} }}\n\
             state: {{ dir: {}, retry_interval: 200ms }}\nshutdown: {{ grace: 0s, last_call: 200ms, drain: 10s }}\n\
             apisix:\n  node_listen: [{{ ip: 127.0.0.1, port: {} }}]\n  ssl: {{ listen: [{{ ip: 127.0.0.1, port: {}, enable_http3: true }}] }}\n\
             \x20 status: {{ ip: 127.0.0.1, port: {} }}\n  control: {{ ip: 127.0.0.1, port: {} }}\n\
             \x20 stream_proxy: {{ tcp: ['{tcp}'], udp: ['{udp}'] }}\n\
             plugin_attr: {{ prometheus: {{ enable_export_server: false }} }}\n{settings}",
            data.join("data/group-token").display(),
            data.join("second-gateway").display(),
            http.port(),
            https.port(),
            status.port(),
            control.port(),
        );
        let config = up.data.write("gateway.yaml", file);
        let (echo, long) = (Echo::start(), Long::start());
        let to = |address: SocketAddr| json!({ "nodes": { address.to_string(): 1 }, "timeout": { "connect": 60, "send": 600, "read": 600 } });
        let dashboard = |line: &str| line.trim().strip_prefix("dashboard ").map(|address| address.trim().to_owned());
        let server = format!("http://{}", up.process.wait_for_line("the dashboard", START, dashboard));
        let mut set = Command::new(binary());
        set.args(["group", "settings", "set", "--proxy-mode", "http&stream"]);
        let said = Said::by(set.envs([("MILECASTLE_SERVER", &*server), ("MILECASTLE_ADMIN_KEY", ADMIN_KEY)]));
        assert_eq!(said.code, 0, "{}", said.text);
        up.put("/routes/ws", json!({ "uri": "/ws", "enable_websocket": true, "upstream": to(chat()) })).await;
        up.put("/routes/long", json!({ "uri": "/long", "upstream": to(long.address) })).await;
        up.put("/routes/echo", json!({ "uri": "/*", "upstream": to(echo.address()) })).await;
        for (id, listener, scheme, back) in [("tcp", tcp, "tcp", back_tcp()), ("udp", udp, "udp", back_udp())] {
            let timeout = json!({ "connect": 60, "send": 3, "read": 3 });
            let timeout = if scheme == "udp" { timeout } else { json!({ "connect": 60, "send": 600, "read": 600 }) };
            let upstream = json!({ "nodes": { back.to_string(): 1 }, "scheme": scheme, "timeout": timeout });
            up.put(&format!("/stream_routes/{id}"), json!({ "server_port": listener.port(), "upstream": upstream }))
                .await;
        }
        let authority = Authority::new("test");
        let identity = authority.issue(&["localhost"]);
        up.put("/ssls/1", json!({ "sni": "localhost", "cert": identity.cert, "key": identity.key })).await;
        put_answer(&up, &echo, "last", "last").await;
        let ca = authority.pem();
        Self { up, http, https, ca, status, control, tcp, udp, config, echo, long }
    }

    /// Starts a gateway with further arguments.
    pub(crate) fn process(&self, name: &str, args: &[&str]) -> Process {
        let mut command = Command::new(binary());
        command.args(["gateway", "-c"]).arg(&self.config).args(args).env("MILECASTLE_LOG", "info");
        let mut process = Process::start(name, command);
        // Each upgrade, also one that comes to nothing, has a stream opened anew: on a busy machine not at the first try in time.
        process.announce("no configuration stream; trying again");
        process
    }

    /// Starts a gateway, and waits until it serves what was configured.
    pub(crate) async fn first(&self) -> Process {
        let process = self.serving(self.process("gateway 0", &[]));
        self.answers("/last", 202).await;
        process
    }

    /// Puts a route that answers with 202 and this text.
    pub(crate) async fn put_answer(&self, id: &str, text: &str) {
        put_answer(&self.up, &self.echo, id, text).await;
    }

    /// Starts a gateway that takes over, and waits until it serves.
    pub(crate) fn next(&self, name: &str) -> Process {
        self.serving(self.process(name, &["--upgrade"]))
    }

    /// Has another gateway take the place of `first`, and answer `target` with 202. Sees `first` end once `last`, the last that it
    /// has open, is closed, without a complaint.
    pub(crate) async fn replace(&self, mut first: Process, last: Raw, target: &str) {
        let second = self.next("gateway 1");
        assert_eq!(self.get(target).await.status, 202);
        drop(last);
        assert!(first.wait_for_end(START).success());
        assert_eq!(first.unannounced(), Vec::<String>::new());
        second.stop(START);
    }

    /// Waits until a gateway serves.
    pub(crate) fn serving(&self, mut process: Process) -> Process {
        process.wait_for_line("ready", START, |line| line.contains(" ready revision=").then_some(()));
        process
    }

    /// Has a gateway start one that takes over.
    pub(crate) fn signal(&self, process: &mut Process) {
        process.signal(USR2);
    }

    /// What `/v1/drain` says.
    pub(crate) async fn census(&self) -> Value {
        Call::get("/v1/drain").to(self.control).await.unwrap().json().unwrap()
    }

    /// Waits until a route is in force with the gateway that serves.
    pub(crate) async fn answers(&self, target: &str, status: u16) {
        eventually(&format!("{target} is answered with {status}"), async || self.get(target).await.status == status)
            .await;
    }

    /// HTTPS, over HTTP/1.1.
    pub(crate) fn tls(&self) -> Target {
        Target::tls(self.https, "localhost", &self.ca)
    }

    /// A request on a connection of its own.
    pub(crate) async fn get(&self, target: &str) -> Answer {
        Call::get(target).to(self.http).await.unwrap()
    }
}
