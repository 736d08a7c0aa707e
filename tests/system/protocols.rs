//! Other protocols than WebSocket through the real binary, where routes name them (`docs/spec/plugins/upgrade.md`).

use crate::stream::server;
use milecastle_testkit::raw::Raw;
use milecastle_testkit::{Process, SOON, eventually};
use milecastle_tests::Up;
use serde_json::json;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::mpsc;

/// A server that changes to `tcp` where it is asked to, as engines of containers do: it reads its instructions, says them, and
/// sends back what it gets then. Any other request is answered with 200.
fn engine() -> SocketAddr {
    server(|stream| {
        let (mut reader, mut writer) = (BufReader::new(&stream), &stream);
        loop {
            let head: Vec<String> =
                reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            if head.is_empty() {
                return;
            }
            let field = |name: &str| head.iter().find_map(|line| line.strip_prefix(name));
            let mut instructions = vec![0; field("Content-Length: ").map_or(0, |length| length.parse().unwrap())];
            reader.read_exact(&mut instructions).unwrap();
            if field("Upgrade: ") == Some("tcp") {
                let switch = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
                writer.write_all(&[switch.as_bytes(), &instructions].concat()).unwrap();
                return drop(std::io::copy(&mut reader, &mut writer));
            }
            if writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err() {
                return;
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_protocol_passes_where_the_route_names_it() {
    let up = Up::start();
    let upstream = json!({ "nodes": { engine().to_string(): 1 } });
    let plugins = json!({ "upgrade": { "protocols": ["tcp"] } });
    let refused = json!({ "uri": "/exec/*", "upstream": upstream, "plugins": { "upgrade": { "protocols": ["h2c"] } } });
    let answer = up.admin("PUT", "/routes/exec", Some(&refused)).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("requests would pass by routes and plugins"), "{}", answer.text());
    up.put("/routes/exec", json!({ "uri": "/exec/*", "upstream": upstream, "plugins": plugins })).await;
    up.put("/routes/chat", json!({ "uri": "/chat", "upstream": upstream, "enable_websocket": true })).await;
    up.answers("/exec/1", 200).await;
    up.answers("/chat", 200).await;
    let ask = |path: &str, protocol: &str| {
        let instructions = r#"{"Detach":false,"Tty":true}"#;
        format!(
            "POST {path} HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{instructions}",
            instructions.len()
        )
    };
    for (path, protocol) in [("/exec/1", "h2c"), ("/exec/1", "websocket"), ("/chat", "tcp")] {
        let mut client = Raw::connect(up.http).await.unwrap();
        client.send(ask(path, protocol)).await.unwrap();
        let head = client.read_head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{path} {protocol}: {head}");
    }
    let mut client = Raw::connect(up.http).await.unwrap();
    client.send(ask("/exec/1", "h2c, TCP")).await.unwrap();
    let head = client.read_head().await.unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 ") && head.contains("\r\nupgrade: tcp\r\n"), "{head}");
    client.read_until(br#"{"Detach":false,"Tty":true}"#).await.unwrap();
    for said in [b"ls -l\n".to_vec(), vec![0x88; 100_000]] {
        client.send(&said).await.unwrap();
        assert!(client.read_exact(said.len()).await.unwrap() == said);
    }
    eventually("the tunnel is counted", async || up.metric("apisix_tunnels").await == Some(1.0)).await;
    client.finish_sending().await.unwrap();
    assert!(client.read_to_end().await.unwrap().is_empty());
    eventually("the tunnel has ended", async || up.metric("apisix_tunnels").await == Some(0.0)).await;
    drop(up.stop());
}

/// A server whose 101 says too little, or something else, by the path; with what it gets through a tunnel that it ought not to have.
fn careless() -> (SocketAddr, mpsc::Receiver<Vec<u8>>) {
    let (tell, told) = mpsc::channel();
    let address = server(move |mut stream| {
        let head: Vec<String> =
            BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let Some(line) = head.first() else { return };
        let asked = head.iter().any(|line| line.starts_with("Upgrade: "));
        let said = match line.split(' ').nth(1) {
            _ if !asked => "HTTP/1.1 204 No Content\r\n\r\n",
            Some("/to-no-connection") => "HTTP/1.1 101 Go\r\nUpgrade: websocket\r\n\r\n",
            Some("/to-nothing") => "HTTP/1.1 101 Go\r\nConnection: Upgrade\r\n\r\n",
            Some("/to-another") => "HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
            _ => "HTTP/1.0 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        };
        if stream.write_all(said.as_bytes()).is_ok() && asked {
            let mut passed = Vec::new();
            drop(stream.read_to_end(&mut passed));
            tell.send(passed).unwrap();
        }
    });
    (address, told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_does_not_say_what_it_changes_to_gets_no_tunnel() {
    let mut up = Up::start();
    up.process.announce("an upstream node gave no answer");
    let (address, told) = careless();
    let upstream = json!({ "nodes": { address.to_string(): 1 } });
    up.put("/routes/1", json!({ "uri": "/*", "upstream": upstream, "enable_websocket": true })).await;
    up.answers("/", 204).await;
    for path in ["/to-no-connection", "/to-nothing", "/to-another", "/in-http-1-0"] {
        let ask = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        let mut client = Raw::connect(up.http).await.unwrap();
        client.send(ask + "GET /unseen").await.unwrap();
        let head = client.read_head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 502 "), "{path}: {head}");
        assert_eq!(told.recv_timeout(SOON).unwrap(), b"", "{path}");
    }
    drop(up.stop());
}

/// A server of Node's that changes to whatever it is asked for, and sends back what it gets in capitals.
const NODE: &str = r#"
const server = require("http").createServer((request, response) => response.end("plain"));
server.on("upgrade", (request, socket) => {
  const protocol = request.headers.upgrade;
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ${protocol}\r\n\r\n${request.method} `);
  socket.on("data", (data) => socket.write(data.toString().toUpperCase()));
  socket.on("end", () => socket.end());
  socket.on("error", () => {});
});
server.listen(0, "127.0.0.1", () => console.log(`listening on ${server.address().port}`));
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_another_make_changes_to_what_the_route_names() {
    let mut command = Command::new("node");
    command.args(["-e", NODE]);
    let mut node = Process::start("node", command);
    let port: u16 = node.wait_for_line("its port", SOON, |line| line.strip_prefix("listening on ")?.parse().ok());
    let up = Up::start();
    let upstream = json!({ "nodes": { format!("127.0.0.1:{port}"): 1 } });
    let plugins = json!({ "upgrade": { "protocols": ["SPDY/3.1"] } });
    up.put("/routes/1", json!({ "uri": "/*", "upstream": upstream, "plugins": plugins })).await;
    up.answers("/", 200).await;
    let ask = |protocol: &str| {
        format!("POST /exec HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n")
    };
    let mut client = Raw::connect(up.http).await.unwrap();
    client.send(ask("SPDY/3.0")).await.unwrap();
    assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 200 "));
    client.read_until(b"plain").await.unwrap();
    // The connection goes on after an answer that is an ordinary one.
    client.send(ask("spdy/3.1")).await.unwrap();
    let head = client.read_head().await.unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 ") && head.contains("\r\nupgrade: spdy/3.1\r\n"), "{head}");
    assert_eq!(client.read_exact(5).await.unwrap(), b"POST ");
    client.send("over and over").await.unwrap();
    assert_eq!(client.read_exact(13).await.unwrap(), b"OVER AND OVER");
    client.finish_sending().await.unwrap();
    assert!(client.read_to_end().await.unwrap().is_empty());
    drop(up.stop());
}
