//! Messages with descriptors between two processes of this machine, over a Unix socket (unix(7), SCM_RIGHTS).
//!
//! A message is its length in four bytes, least significant first, and JSON; descriptors come with its first byte. Members that
//! a version does not know are overlooked, so that versions which agree on [`PROTOCOL`] may differ in them.

use super::Address;
use crate::drain::Census;
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;

/// What both sides have to agree on.
pub(super) const PROTOCOL: u32 = 1;
/// Descriptors that go with one message; the system takes 253 at most.
pub(super) const DESCRIPTORS: usize = 128;
/// Longest message, in bytes.
const LONGEST: usize = 1024 * 1024;

/// What the two processes say.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub(super) enum Message {
    /// The successor wants the sockets.
    Take { protocol: u32, version: String },
    /// One listener's sockets come with it; of a listener with many of them, some.
    Sockets(Address),
    /// All sockets were sent. The lock on the state directory comes with it, if there is one.
    Directory,
    /// The successor could serve at once, on these of the listeners.
    Ready { claimed: Vec<Address> },
    /// The sockets are the successor's.
    Yours,
    /// There will be no taking over.
    Refused { reason: String },
    /// How far has the end of the process come?
    Ask,
    /// So far.
    Told { census: Census },
}

/// One side of the conversation. A call that is given up leaves it useless.
pub(super) struct Channel(UnixStream);

impl Channel {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// Sends a message with at most [`DESCRIPTORS`] descriptors.
    pub(super) async fn send(&mut self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let length = u32::try_from(text.len()).map_err(io::Error::other)?;
        let bytes = [&length.to_le_bytes()[..], &text].concat();
        let send = || {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            Ok(sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?)
        };
        let sent = self.0.async_io(Interest::WRITABLE, send).await?;
        self.0.write_all(bytes.get(sent..).unwrap_or_default()).await
    }

    /// Waits for the next message, with its descriptors.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the other side has ended.
    pub(super) async fn receive(&mut self) -> io::Result<(Message, Vec<OwnedFd>)> {
        let (mut length, mut got, mut descriptors) = ([0; 4], 0, Vec::new());
        while got < length.len() {
            let room = length.get_mut(got..).unwrap_or_default();
            let read = self.0.async_io(Interest::READABLE, || read_with(&self.0, room, &mut descriptors)).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            got += read;
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > LONGEST {
            return Err(io::Error::other("a message is too long: the other side speaks something else"));
        }
        let mut text = vec![0; length];
        self.0.read_exact(&mut text).await?;
        Ok((serde_json::from_slice(&text)?, descriptors))
    }
}

fn read_with(stream: &UnixStream, room: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let read = recvmsg(stream, &mut [IoSliceMut::new(room)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(read.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;

    #[tokio::test]
    async fn descriptors_come_with_their_message() {
        let (left, right) = UnixStream::pair().unwrap();
        let (mut left, mut right) = (Channel::new(left), Channel::new(right));
        let (mut one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let many = vec![other.as_fd(); DESCRIPTORS];
        left.send(&Message::Directory, &many).await.unwrap();
        left.send(&Message::Refused { reason: "no".into() }, &[]).await.unwrap();
        drop(left);
        let (message, descriptors) = right.receive().await.unwrap();
        assert!(matches!(message, Message::Directory) && descriptors.len() == DESCRIPTORS);
        let (message, none) = right.receive().await.unwrap();
        assert!(matches!(message, Message::Refused { reason } if reason == "no") && none.is_empty());
        assert_eq!(right.receive().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let mut passed = std::os::unix::net::UnixStream::from(descriptors.into_iter().next().unwrap());
        passed.write_all(b"here").unwrap();
        let mut heard = [0; 4];
        one.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"here");
    }
}
