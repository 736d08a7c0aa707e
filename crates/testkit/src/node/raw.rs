//! What no node should say: bytes that are no messages, messages that have no end, frames that are none of HTTP/2.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes};
use milecastle_pki::{CLUSTER_NAME, Fingerprint, join_client_config};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status};

use super::Member;

/// Carries bytes as they are.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Sends these bytes as the first messages of a configuration stream, a frame each; how it ends.
///
/// # Panics
/// If there is no connection.
pub async fn send(at: SocketAddr, member: &Member, messages: Vec<Bytes>) -> Status {
    let mut grpc = tonic::client::Grpc::new(member.channel(at).await.expect("a connection"));
    grpc.ready().await.expect("a connection that takes calls");
    // Kept open, so that the end is the server's doing.
    let (outbox, outgoing) = mpsc::channel(messages.len().max(1));
    for message in messages {
        outbox.try_send(message).expect("there is room for all of them");
    }
    let path = http::uri::PathAndQuery::from_static("/milecastle.config.v1.Config/Stream");
    let mut answers = match grpc.streaming(Request::new(ReceiverStream::new(outgoing)), path, Raw).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return status,
    };
    loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Status::ok("the end"),
            Err(status) => return status,
        }
    }
}

/// Opens a stream, says `hello`, and then that a message of `length` bytes comes; sends as much of it as is taken. Gives how many
/// bytes those were when the other side had enough.
///
/// # Panics
/// If there is no connection.
pub async fn endless(at: SocketAddr, member: &Member, hello: &Bytes, length: u32) -> u64 {
    let (mut calls, connection) = h2::client::handshake(connect(at, member).await).await.expect("HTTP/2");
    // How it ends is told by the call on it.
    tokio::spawn(async move { drop(connection.await) });
    let call = http::Request::post("https://dp-manager/milecastle.config.v1.Config/Stream")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request");
    // The answer says nothing that the end of the sending does not say.
    let (_answer, mut body) = calls.send_request(call, false).expect("a new connection takes a call");
    let frame = |length: u32| [&[0][..], &length.to_be_bytes()].concat();
    let hello_length = u32::try_from(hello.len()).expect("a short hello");
    let begin = [frame(hello_length), hello.to_vec(), frame(length)].concat();
    let mut next = Bytes::from(begin);
    let (piece, mut sent) = (Bytes::from(vec![0; 64 << 10]), 0);
    loop {
        body.reserve_capacity(next.len());
        match poll_fn(|cx| body.poll_capacity(cx)).await {
            Some(Ok(room)) => {
                let part = next.split_to(room.min(next.len()));
                sent += part.len() as u64;
                if body.send_data(part, false).is_err() || sent > u64::from(length) {
                    return sent;
                }
            }
            Some(Err(_)) | None => return sent,
        }
        if next.is_empty() {
            next = piece.clone();
        }
    }
}

/// A TLS connection that shows the node's certificate, for whatever bytes.
///
/// # Panics
/// If there is none.
pub async fn connect(at: SocketAddr, member: &Member) -> TlsStream<TcpStream> {
    let config = member.keys.client_config().expect("keys that were accepted");
    handshake(at, config).await.expect("a connection")
}

/// The same without a certificate, as one that wants to join.
///
/// # Errors
/// There is none.
pub async fn connect_as_guest(at: SocketAddr, trusted: Fingerprint) -> io::Result<TlsStream<TcpStream>> {
    handshake(at, join_client_config(trusted).expect("a fingerprint is enough")).await
}

async fn handshake(at: SocketAddr, config: rustls::ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let name = CLUSTER_NAME.try_into().expect("a DNS name");
    TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(at).await?).await
}

/// `Hello` of a node by hand, as long as its names are short: fields 1, 2 and 4 within field 1.
///
/// # Panics
/// If it is longer than 127 bytes.
pub fn hello(group: &str, node: &str) -> Bytes {
    let field = |number: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).ok().filter(|length| *length < 0x80).expect("a short field");
        [&[number << 3 | 2, length][..], content].concat()
    };
    let hello = [field(1, node.as_bytes()), field(2, group.as_bytes()), field(4, &[1])].concat();
    field(1, &hello).into()
}
