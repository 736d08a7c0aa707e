//! Taking a header off a connection.

use super::parse::{Header, MOST, Malformed, parse};
use std::io;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// Takes the header off a connection, and nothing that follows it.
///
/// # Errors
/// There is no well-formed header, or it takes longer than `patience`.
pub(crate) async fn read(stream: &mut TcpStream, patience: Duration) -> io::Result<Header> {
    let read = tokio::time::timeout(patience, take(stream)).await;
    read.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the PROXY header came too slowly")))
}

/// Looks at what has come before taking it: only what belongs to the header is taken. Since all that an unfinished header has
/// brought is taken, a look never sees the same bytes twice.
async fn take(stream: &mut TcpStream) -> io::Result<Header> {
    let mut bytes = [0; MOST];
    let mut taken = 0;
    loop {
        let seen = stream.peek(&mut bytes[taken..]).await?;
        if seen == 0 {
            // The room is as long as the longest header: it is the connection that has ended.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let all = &bytes[..taken + seen];
        let header = parse(all).map_err(|Malformed| io::Error::new(io::ErrorKind::InvalidData, Malformed))?;
        let end = header.map_or(all.len(), |header| header.len);
        stream.read_exact(&mut bytes[taken..end]).await?;
        taken = end;
        if let Some(header) = header {
            return Ok(header);
        }
    }
}
