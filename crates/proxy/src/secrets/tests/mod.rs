//! Secret managers over real sockets.
//!
//! No package registry has a Vault or a server of AWS or Google, so each is a small one that is written here after the product's
//! documentation. It checks what it is asked: method, path and headers; AWS's has the signature computed again from the bytes that have
//! come, Google's verifies the JWT with the public key.

mod aws;
pub(in crate::secrets) mod gcp;
mod silence;
mod vault;

use super::manager::{Manager, Patience};
use super::trouble::{Found, Trouble};
use crate::config::GatewayConfig;
use milecastle_export::Background;
use milecastle_plugin_api::NodeFacts;
use milecastle_settings::{Gateway, Size};
use milecastle_testkit::SOON;
use milecastle_testkit::registry::{Fault, Protocol, Server};
use milecastle_testkit::tls::{Identity, server_config};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_rustls::TlsAcceptor;

const LONGEST_ANSWER: usize = 64 << 10;

/// As a node has it, with the authorities of a file.
fn outlet(authorities: Option<&Path>) -> Arc<Background> {
    Arc::new(background(authorities))
}

pub(crate) fn background(authorities: Option<&Path>) -> Background {
    let mut settings = Gateway::default();
    if let Some(file) = authorities {
        settings.apisix.ssl.ssl_trusted_certificate = file.display().to_string();
    }
    let facts = NodeFacts { hostname: "host-1".into(), version: "1.2.3", tracing: false };
    let config = GatewayConfig::new(&settings, &facts).unwrap();
    crate::outlet::background(Handle::current(), &config, Size::kib(LONGEST_ANSWER as u64 >> 10))
}

fn patience(timeout: Duration) -> Patience {
    Patience { timeout, concurrency: 2, rest: SOON }
}

fn manager(id: &str, body: &Value) -> Manager {
    Manager::new(id, body, outlet(None), patience(SOON)).unwrap()
}

impl Manager {
    /// What stands at one path, which is a place of its own.
    async fn fetch_one(&self, path: &str) -> Found {
        let mut found = self.fetch(path, &[path.to_owned()]).await;
        assert_eq!(found.len(), 1);
        found.remove(0)
    }
}

/// What is wrong with an object.
fn fault(id: &str, body: &Value) -> String {
    Manager::new(id, body, outlet(None), patience(SOON)).err().unwrap()
}

/// The words of a failure.
fn failure(fetched: Found) -> String {
    match fetched {
        Err(Trouble::Failed(text)) => text,
        other => panic!("no failure: {other:?}"),
    }
}

fn found(text: &str) -> Found {
    Ok(text.to_owned())
}

/// Whatever goes wrong at a server is a failure in words that have none of `secrets`. The server is stopped then.
async fn check_failures<P: Protocol>(server: &mut Server<P>, (id, body): (&str, &Value), path: &str, secrets: &[&str]) {
    let fails = async |timeout| {
        let manager = Manager::new(id, body, outlet(None), patience(timeout)).unwrap();
        let text = failure(manager.fetch_one(path).await);
        assert!(secrets.iter().all(|secret| !text.contains(secret)), "{text}");
        text
    };
    for status in [301, 400, 403, 404, 429, 500, 503] {
        server.fail(Some(Fault::Status(status)));
        let text = fails(SOON).await;
        assert!(text.ends_with(&format!("answers with status {status}")), "{text}");
    }
    for (fault, why) in [
        (Fault::Garbage, "not of the form that is documented"),
        (Fault::Long(LONGEST_ANSWER + 1), "empty, cut short or too long"),
    ] {
        server.fail(Some(fault));
        let text = fails(SOON).await;
        assert!(text.ends_with(why), "{text}");
    }
    server.fail(Some(Fault::Silence));
    assert_eq!(fails(Duration::from_millis(100)).await, "there is no answer within 100ms");
    server.stop();
    let text = fails(SOON).await;
    assert!(text.contains(&format!("http://{} cannot be asked", server.address())), "{text}");
    for cut in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"data\":"] {
        let listener = TcpListener::bind(server.address()).await.unwrap();
        let cutting = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
                assert!(stream.read_buf(&mut asked).await.unwrap() > 0, "the client left");
            }
            stream.write_all(cut).await.unwrap();
        };
        tokio::join!(fails(SOON), cutting);
    }
}

/// TLS in front of a server. Says where.
async fn encrypted(identity: &Identity, server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, acceptor) = (listener.local_addr().unwrap(), TlsAcceptor::from(server_config(identity, &[])));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust us leaves.
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut plain = TcpStream::connect(server).await.unwrap();
                drop(copy_bidirectional(&mut stream, &mut plain).await);
            });
        }
    });
    address
}

#[tokio::test]
async fn managers_have_one_of_three_names() {
    let expected = "`azure` is no secret manager: expected `vault`, `aws` or `gcp`";
    assert_eq!(fault("azure/1", &Value::Null), expected);
    assert_eq!(fault("vault/1", &Value::Null), "`uri` is missing");
}
