//! The streams beside the requests (RFC 9114 §6.2): control, and what QPACK has for a dynamic table, of which there is none.

use super::connection::Http3;
use crate::h3::{self, Frames, StreamFault, code, frame};
use quinn::{RecvStream, VarInt, WriteError};
use std::future::poll_fn;
use std::rc::Rc;

/// Types of streams (RFC 9114 §6.2, RFC 9204 §4.2).
const CONTROL: u64 = 0;
const PUSH: u64 = 1;
const ENCODER: u64 = 2;
const DECODER: u64 = 3;

/// The largest head of a request, as SETTINGS says it (RFC 9114 §7.2.4.1).
const MAX_FIELD_SECTION_SIZE: u32 = 6;
/// Settings of a client: more are not worth reading.
const MOST_SETTINGS: u64 = 1024;
/// Payload of the frames that a control stream may have beside SETTINGS: a number.
const LONGEST_NUMBER: u64 = 8;
/// What an encoder may say where there is no table: that its capacity is 0 (RFC 9204 §4.3.1).
const NO_CAPACITY: u8 = 0x20;

/// Sends what is to be said on the gateway's own control stream, for as long as the connection lasts.
pub(super) async fn send(connection: Rc<Http3>) {
    if let Err(error) = say(&connection).await {
        tracing::debug!(peer = %connection.client.facts.peer, %error, "an HTTP/3 control stream broke off");
        connection.quic.close(code::CLOSED_CRITICAL_STREAM, b"the control stream cannot be sent");
    }
}

async fn say(connection: &Http3) -> Result<(), WriteError> {
    let mut stream = connection.quic.open_uni().await?;
    let most = connection.client.worker.node.config.client.header_bytes;
    let mut settings = Vec::new();
    h3::put_number(&mut settings, MAX_FIELD_SECTION_SIZE.into());
    h3::put_number(&mut settings, VarInt::try_from(most as u64).unwrap_or(VarInt::MAX));
    let mut first = vec![CONTROL as u8];
    first.extend(h3::frame_head(frame::SETTINGS, settings.len()));
    first.extend(settings);
    stream.write_all(&first).await?;
    loop {
        connection.goaway_said.notified().await;
        if let Some(first_refused) = connection.goaway() {
            let mut id = Vec::new();
            h3::put_number(&mut id, first_refused);
            let mut goaway = h3::frame_head(frame::GOAWAY, id.len());
            goaway.extend(id);
            stream.write_all(&goaway).await?;
        }
    }
}

/// Reads a stream that the client has opened.
pub(super) async fn receive(connection: Rc<Http3>, recv: RecvStream) {
    let mut frames = Frames::new(connection.quic.clone(), recv);
    if let Err(fault) = read(&connection, &mut frames).await {
        tracing::debug!(peer = %connection.client.facts.peer, %fault, "an HTTP/3 stream beside the requests ended");
    }
}

async fn read(connection: &Http3, frames: &mut Frames) -> Result<(), StreamFault> {
    // One that ends before its type has come is nothing (RFC 9114 §6.2).
    let Some(kind) = frames.number().await? else { return Ok(()) };
    if kind == PUSH {
        return Err(frames.refuse(code::STREAM_CREATION_ERROR, "clients push nothing"));
    }
    if !matches!(kind, CONTROL | ENCODER | DECODER) {
        connection.take_control_frame();
        frames.stop(code::STREAM_CREATION_ERROR);
        return Ok(());
    }
    if !connection.first_of(kind) {
        return Err(frames.refuse(code::STREAM_CREATION_ERROR, "a second stream of its kind"));
    }
    let ended = match kind {
        CONTROL => control(connection, frames).await,
        ENCODER => encoder(frames).await,
        _ => decoder(connection, frames).await,
    };
    match ended {
        Ok(()) | Err(StreamFault::Reset) => {
            Err(frames.refuse(code::CLOSED_CRITICAL_STREAM, "a stream ended that the connection needs"))
        }
        Err(StreamFault::Ended) => Err(StreamFault::Ended),
    }
}

/// Reads the client's control stream to its end, which must not come.
async fn control(connection: &Http3, frames: &mut Frames) -> Result<(), StreamFault> {
    let mut settled = false;
    while let Some((kind, mut length)) = poll_fn(|cx| frames.poll_head(cx)).await? {
        match kind {
            frame::SETTINGS if !settled && length > MOST_SETTINGS => {
                return Err(frames.refuse(code::EXCESSIVE_LOAD, "too many settings"));
            }
            frame::SETTINGS if !settled => {
                if !are_sound(frames.payload(length).await?) {
                    return Err(frames.refuse(code::SETTINGS_ERROR, "unsound settings"));
                }
                settled = true;
            }
            _ if !settled => return Err(frames.refuse(code::MISSING_SETTINGS, "settings come first")),
            frame::GOAWAY | frame::MAX_PUSH_ID | frame::CANCEL_PUSH if length > LONGEST_NUMBER => {
                return Err(frames.refuse(code::FRAME_ERROR, "a frame is longer than it can be"));
            }
            // Nothing is ever pushed.
            frame::GOAWAY | frame::MAX_PUSH_ID | frame::CANCEL_PUSH => {
                poll_fn(|cx| frames.poll_skip(&mut length, cx)).await?;
            }
            kind if frame::is_known(kind) => {
                return Err(frames.refuse(code::FRAME_UNEXPECTED, "a frame that has no place on a control stream"));
            }
            _ => poll_fn(|cx| frames.poll_skip(&mut length, cx)).await?,
        }
        connection.take_control_frame();
    }
    Ok(())
}

/// Whether settings have a form, none of them stands there twice, and none is one of HTTP/2 (RFC 9114 §7.2.4).
fn are_sound(settings: Vec<u8>) -> bool {
    let Some(numbers) = h3::numbers(settings) else { return false };
    let mut names: Vec<u64> = numbers.iter().step_by(2).copied().collect();
    let number = names.len();
    names.sort_unstable();
    names.dedup();
    numbers.len() == 2 * number && names.len() == number && !names.iter().any(|name| matches!(name, 0 | 2..=5))
}

/// Reads the stream of the client's encoder, which has nothing to encode into.
async fn encoder(frames: &mut Frames) -> Result<(), StreamFault> {
    while let Some(said) = poll_fn(|cx| frames.poll_bytes(cx)).await? {
        if said.iter().any(|byte| *byte != NO_CAPACITY) {
            return Err(frames.refuse(code::ENCODER_STREAM_ERROR, "there is no dynamic table"));
        }
    }
    Ok(())
}

/// Reads the stream of the client's decoder, which has nothing to acknowledge.
async fn decoder(connection: &Http3, frames: &mut Frames) -> Result<(), StreamFault> {
    while poll_fn(|cx| frames.poll_bytes(cx)).await?.is_some() {
        connection.take_control_frame();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_pairs_of_which_none_comes_twice() {
        for (settings, sound) in [
            (&[][..], true),
            (&[1, 0, 6, 0x40, 0xff, 0x33, 1], true),
            (&[6], false),
            (&[6, 0x40], false),
            (&[6, 1, 6, 1], false),
            (&[2, 1], false),
            (&[0, 1], false),
        ] {
            assert_eq!(are_sound(settings.to_vec()), sound, "{settings:?}");
        }
    }
}
