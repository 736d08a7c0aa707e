//! Bytes on a TCP connection, for requests that no client would send.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// How long any step may take.
const STEP: Duration = Duration::from_secs(20);

/// A TCP connection and what was read from it but not asked for yet.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Raw {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = timeout(STEP, TcpStream::connect(address)).await.context("connecting took too long")??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Connects from an address of this machine.
    pub async fn connect_from(local: IpAddr, address: SocketAddr) -> Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.bind((local, 0).into())?;
        let stream = timeout(STEP, socket.connect(address)).await.context("connecting took too long")??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends all of `bytes`.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        timeout(STEP, self.stream.write_all(bytes.as_ref())).await.context("sending took too long")??;
        Ok(())
    }

    /// Says that nothing more will be sent, and keeps reading possible.
    pub async fn finish_sending(&mut self) -> Result<()> {
        Ok(self.stream.shutdown().await?)
    }

    /// Reads up to and including the first `end`. What came behind it stays for the next call.
    pub async fn read_until(&mut self, end: &[u8]) -> Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|w| w == end) {
                return Ok(self.buffer.drain(..at + end.len()).collect());
            }
            if self.read_some().await? == 0 {
                bail!("the connection closed after {:?}", String::from_utf8_lossy(&self.buffer));
            }
        }
    }

    /// Reads exactly `n` bytes.
    pub async fn read_exact(&mut self, n: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < n {
            if self.read_some().await? == 0 {
                bail!("the connection closed {} bytes early", n - self.buffer.len());
            }
        }
        Ok(self.buffer.drain(..n).collect())
    }

    /// Reads exactly `n` bytes; `None` if the peer closes before all of them have come. A reset counts as closing.
    pub async fn read_exact_or_end(&mut self, n: usize) -> Result<Option<Vec<u8>>> {
        while self.buffer.len() < n {
            match self.read_some().await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(e) if is_reset(&e) => return Ok(None),
                Err(e) => return Err(e),
            }
        }
        Ok(Some(self.buffer.drain(..n).collect()))
    }

    /// Reads the head of an answer, including the empty line.
    pub async fn read_head(&mut self) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.read_until(b"\r\n\r\n").await?).into_owned())
    }

    /// Reads until the peer closes. A reset counts as closing.
    pub async fn read_to_end(&mut self) -> Result<Vec<u8>> {
        loop {
            match self.read_some().await {
                Ok(0) => return Ok(std::mem::take(&mut self.buffer)),
                Ok(_) => {}
                Err(e) if is_reset(&e) => return Ok(std::mem::take(&mut self.buffer)),
                Err(e) => return Err(e),
            }
        }
    }

    async fn read_some(&mut self) -> Result<usize> {
        match timeout(STEP, self.stream.read_buf(&mut self.buffer)).await {
            Ok(read) => Ok(read?),
            Err(_) => bail!("waited {STEP:?} for more after {:?}", String::from_utf8_lossy(&self.buffer)),
        }
    }
}

fn is_reset(e: &anyhow::Error) -> bool {
    e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
}

/// Sends `bytes` on a new connection and returns all that comes back until the peer closes.
pub async fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Result<String> {
    let mut connection = Raw::connect(address).await?;
    connection.send(bytes).await?;
    Ok(String::from_utf8_lossy(&connection.read_to_end().await?).into_owned())
}
