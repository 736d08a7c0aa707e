//! Streams of bytes that need not be messages.

use std::net::SocketAddr;

use bytes::{Buf as _, BufMut as _, Bytes};
use tokio::sync::mpsc;
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
