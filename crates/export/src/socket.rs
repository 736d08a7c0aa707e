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
use tokio::net::{UdpSocket, lookup_host};

/// What carries bytes to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// A TCP connection, with TLS where the endpoint says so.
    Connection,
    /// UDP; the endpoint's TLS means nothing.
    Datagrams,
}

/// Sends bytes to a server.
pub struct SocketClient {
    background: Arc<Background>,
    to: Endpoint,
    carrier: Carrier,
    kept: Option<Socket>,
}

enum Socket {
    Connection(Box<dyn Duplex>),
    Datagrams(UdpSocket),
}

impl SocketClient {
    /// A client that has no connection yet.
    pub fn new(background: Arc<Background>, to: Endpoint, carrier: Carrier) -> Self {
        Self { background, to, carrier, kept: None }
    }

    /// The server.
    pub fn to(&self) -> &Endpoint {
        &self.to
    }

    /// Sends bytes, as one datagram where there are datagrams. Connecting, writing, and leaving an old connection have `patience` each.
    /// A kept connection that the server has closed is replaced by a new one.
    ///
    /// # Errors
    /// They were not handed over in whole. A part of them may have reached the server.
    pub async fn send(&mut self, bytes: &[u8], patience: Duration) -> io::Result<()> {
        if !self.is_open().await {
            self.close(patience).await;
        }
        let mut socket = match self.kept.take() {
            Some(kept) => kept,
            None => within(patience, self.open()).await?,
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

    /// Whether there is a socket of the last time that the server has not closed: what is written to such a one is lost without an
    /// error.
    async fn is_open(&mut self) -> bool {
        // The runtime asks the system between two turns; a close that came during this one it does not know of.
        tokio::task::yield_now().await;
        match &mut self.kept {
            Some(Socket::Connection(stream)) => poll_fn(|cx| Poll::Ready(is_open(&mut **stream, cx))).await,
            Some(Socket::Datagrams(_)) => true,
            None => false,
        }
    }

    async fn open(&mut self) -> io::Result<Socket> {
        match self.carrier {
            Carrier::Connection => Ok(Socket::Connection(self.background.connect(&self.to).await?)),
            Carrier::Datagrams => {
                let mut addresses = lookup_host((self.to.host.as_str(), self.to.port)).await?;
                let address = addresses.next().ok_or_else(|| io::Error::other("the name has no address"))?;
                let any: IpAddr =
                    if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let socket = UdpSocket::bind((any, 0)).await?;
                socket.connect(address).await?;
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
    use crate::{Plain, Tls};
    use std::net::SocketAddr;
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
}
