//! Bytes to a server, over a connection that is kept or in datagrams.

use crate::{Background, Duplex, Endpoint};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncWriteExt as _, ReadBuf};
use tokio::net::UdpSocket;

/// What carries bytes to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// A TCP connection, with TLS where the endpoint says so.
    Connection,
    /// UDP, to an address that the server's name has at the time; the endpoint's TLS means nothing.
    Datagrams,
}

/// Sends bytes to a server.
pub struct SocketClient {
    background: Arc<Background>,
    to: Endpoint,
    carrier: Carrier,
    kept: Option<Socket>,
    /// Where datagrams went last.
    address: Option<IpAddr>,
}

enum Socket {
    Connection(Box<dyn Duplex>),
    Datagrams(UdpSocket),
}

impl SocketClient {
    /// A client that has no connection yet.
    pub fn new(background: Arc<Background>, to: Endpoint, carrier: Carrier) -> Self {
        Self { background, to, carrier, kept: None, address: None }
    }

    /// The server.
    pub fn to(&self) -> &Endpoint {
        &self.to
    }

    /// Sends bytes, as one datagram where there are datagrams. Looking up where these go, connecting, writing, and leaving an old
    /// connection have `patience` each. A kept connection that the server has closed is replaced by a new one.
    ///
    /// # Errors
    /// They were not handed over in whole. A part of them may have reached the server.
    pub async fn send(&mut self, bytes: &[u8], patience: Duration) -> io::Result<()> {
        if !self.is_open(patience).await {
            self.close(patience).await;
        }
        let mut socket = match self.kept.take() {
            Some(kept) => kept,
            None => self.open(patience).await?,
        };
        within(patience, socket.write(bytes)).await?;
        self.kept = Some(socket);
        Ok(())
    }

    /// Leaves the server: says that no more will come, as TLS asks for (RFC 5425 §4.4), and waits for the server to leave too, so that
    /// nothing on its way is lost to a reset. After `patience` it goes all the same. What is sent then is sent over a new connection.
    pub async fn close(&mut self, patience: Duration) {
        let Some(Socket::Connection(mut stream)) = self.kept.take() else { return };
        let leave = async {
            stream.shutdown().await?;
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
        };
        // All that was to be sent has been: how the server goes changes nothing.
        drop(within(patience, leave).await);
    }

    /// Whether there is a socket of the last time that the server has not closed, and that leads to it: what is written to another one
    /// is lost without an error.
    async fn is_open(&mut self, patience: Duration) -> bool {
        // The runtime asks the system between two turns; a close that came during this one it does not know of.
        tokio::task::yield_now().await;
        match &mut self.kept {
            Some(Socket::Connection(stream)) => poll_fn(|cx| Poll::Ready(is_open(&mut **stream, cx))).await,
            Some(Socket::Datagrams(_)) => {
                let addresses = self.background.resolve(&self.to.host, patience).await;
                addresses.is_empty() || self.address.is_some_and(|address| addresses.contains(&address))
            }
            None => false,
        }
    }

    async fn open(&mut self, patience: Duration) -> io::Result<Socket> {
        match self.carrier {
            Carrier::Connection => Ok(Socket::Connection(within(patience, self.background.connect(&self.to)).await?)),
            Carrier::Datagrams => {
                let addresses = self.background.resolve(&self.to.host, patience).await;
                // While its name cannot be resolved, the server is where it was.
                let address = addresses.first().copied().or(self.address);
                let address = address.ok_or_else(|| io::Error::other("its name cannot be resolved"))?;
                let any: IpAddr =
                    if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let socket = UdpSocket::bind((any, 0)).await?;
                socket.connect((address, self.to.port)).await?;
                self.address = Some(address);
                Ok(Socket::Datagrams(socket))
            }
        }
    }
}

impl Socket {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Connection(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
            Self::Datagrams(socket) => socket.send(bytes).await.map(drop),
        }
    }
}

/// Whether the server still listens. What it says is of no interest here.
fn is_open(stream: &mut dyn Duplex, cx: &mut Context<'_>) -> bool {
    let mut room = [0; 256];
    loop {
        let mut read = ReadBuf::new(&mut room);
        match Pin::new(&mut *stream).poll_read(cx, &mut read) {
            Poll::Pending => return true,
            Poll::Ready(Ok(())) if !read.filled().is_empty() => {}
            Poll::Ready(_) => return false,
        }
    }
}

async fn within<T>(patience: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(patience, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Connect, Connecting, Plain, Resolving, Tls};
    use std::net::SocketAddr;
    use std::sync::Mutex;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    const SOON: Duration = Duration::from_secs(20);

    fn client(to: SocketAddr, carrier: Carrier) -> SocketClient {
        let background = Background::new(tokio::runtime::Handle::current(), Plain, 1 << 10);
        let to = Endpoint { host: to.ip().to_string(), port: to.port(), tls: Tls::None };
        SocketClient::new(Arc::new(background), to, carrier)
    }

    #[tokio::test]
    async fn a_connection_is_kept_until_the_server_closes_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = client(listener.local_addr().unwrap(), Carrier::Connection);
        for _ in 0..2 {
            client.send(b"one,", SOON).await.unwrap();
            let (mut server, _) = listener.accept().await.unwrap();
            // What the server says changes nothing.
            server.write_all(&[b'x'; 1000]).await.unwrap();
            client.send(b"two.", SOON).await.unwrap();
            let mut got = [0; 8];
            server.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"one,two.");
        }
        drop(listener);
        let refused = client.send(b"three", SOON).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_datagram_for_all_that_is_sent() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut client = client(server.local_addr().unwrap(), Carrier::Datagrams);
        let mut room = [0; 16];
        for bytes in [&b"one"[..], b"other"] {
            client.send(bytes, SOON).await.unwrap();
            let (length, _) = server.recv_from(&mut room).await.unwrap();
            assert_eq!(&room[..length], bytes);
        }
    }

    /// Addresses of every name, which change.
    #[derive(Clone, Default)]
    struct Names(Arc<Mutex<Vec<IpAddr>>>);

    impl Connect for Names {
        fn connect<'a>(&'a self, to: &'a Endpoint) -> Connecting<'a> {
            Plain.connect(to)
        }

        fn resolve<'a>(&'a self, _host: &'a str) -> Resolving<'a> {
            Box::pin(async move { self.0.lock().unwrap().clone() })
        }
    }

    /// A server at each of these addresses, on one port.
    async fn servers(addresses: [IpAddr; 2]) -> [UdpSocket; 2] {
        loop {
            let first = UdpSocket::bind((addresses[0], 0)).await.unwrap();
            let port = first.local_addr().unwrap().port();
            // Somebody else may have it at the other one.
            if let Ok(second) = UdpSocket::bind((addresses[1], port)).await {
                return [first, second];
            }
        }
    }

    #[tokio::test]
    async fn datagrams_go_where_the_name_leads_at_the_time() {
        let (here, there) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let servers = servers([here, there]).await;
        let names = Names::default();
        let background = Background::new(tokio::runtime::Handle::current(), names.clone(), 1 << 10);
        let port = servers[0].local_addr().unwrap().port();
        let to = Endpoint { host: "syslog.test".into(), port, tls: Tls::None };
        let mut client = SocketClient::new(Arc::new(background), to, Carrier::Datagrams);
        client.send(b"x", SOON).await.unwrap_err();
        let mut room = [0; 1];
        // One that it still has is kept, whatever others it has; so is the last one that it had.
        let steps = [(vec![here], 0), (vec![there, here], 0), (vec![there], 1), (vec![], 1), (vec![here], 0)];
        for (addresses, server) in steps {
            *names.0.lock().unwrap() = addresses;
            client.send(b"x", SOON).await.unwrap();
            within(SOON, servers[server].recv_from(&mut room)).await.unwrap();
        }
    }
}
