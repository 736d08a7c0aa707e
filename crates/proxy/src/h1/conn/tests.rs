//! Answers that come while the request is on its way.

use super::*;
use milecastle_testkit::tls::{Authority, client_config, server_config};
use std::net::Ipv4Addr;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Bytes that a socket of the test is to hold.
const SMALL: u32 = 4096;

/// A body that two such sockets do not take, and that TLS keeps in memory meanwhile.
const BODY: usize = 60 * 1024;

/// What becomes of a request with [`BODY`] over TLS, of which the upstream reads nothing and answers `said`.
async fn exchanged(said: &[u8], patience: Patience) -> Result<Head, Failure> {
    let authority = Authority::new("servers");
    let listening = TcpSocket::new_v4().unwrap();
    listening.set_recv_buffer_size(SMALL).unwrap();
    listening.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = listening.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let upstream = async {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = TlsAcceptor::from(server_config(&authority.issue(&["node.test"]), &[]));
        let mut stream = acceptor.accept(stream).await.unwrap();
        stream.write_all(said).await.unwrap();
        stream.flush().await.unwrap();
        stream
    };
    let terms = Terms {
        asked: Asked { head: false, upgrade: Some("tcp"), as_received: None, interim: None },
        limits: Limits { head_bytes: 4096, head_fields: 100 },
        patience,
        later: None,
    };
    let exchanged = async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(SMALL).unwrap();
        let stream = socket.connect(addr).await.unwrap();
        let connector = TlsConnector::from(client_config(&authority.pem(), None, &[]));
        let stream = connector.connect("node.test".try_into().unwrap(), stream).await.unwrap();
        let now = Instant::now();
        let mut conn = Conn::new(Transport::Tls(Box::new(stream)), Rc::default(), now, patience.send);
        let head = format!("POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {BODY}\r\n\r\n");
        conn.begin().extend_from_slice(head.as_bytes());
        let answer = conn.exchange(&mut Outgoing::Whole(vec![b'x'; BODY].into()), HeaderMap::new, terms, now).await;
        (answer, conn.pending())
    };
    let (_open, (answer, pending)) = tokio::join!(upstream, exchanged);
    assert_eq!(pending, 0, "what is left is in the hands of TLS");
    answer
}

#[tokio::test]
async fn a_request_that_tls_has_yet_to_send_has_not_been_sent() {
    let minute = Duration::from_secs(60);
    let said = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    let answer = exchanged(said, Patience { send: minute, read: minute, client: minute }).await;
    assert!(matches!(answer, Err(Failure::Malformed(Malformed::EarlyUpgrade))));
}

#[tokio::test]
async fn an_upstream_that_takes_nothing_from_tls_is_not_taken_for_a_slow_client() {
    let short = Duration::from_millis(50);
    let answer = exchanged(b"", Patience { send: short, read: short, client: short }).await;
    assert!(matches!(answer, Err(Failure::SendTimeout)));
}
