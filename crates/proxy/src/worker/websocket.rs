//! Where the frames of a WebSocket begin and end, as far as it takes to put one between them (RFC 6455 §5.2).

/// A head is two bytes, up to eight of length, and four of mask.
const LONGEST_HEAD: usize = 14;
const OPCODE: u8 = 0x0f;
const CLOSE: u8 = 0x8;
const MASKED: u8 = 0x80;
/// The end is the endpoint's own: it goes away (§7.4.1).
const GOING_AWAY: [u8; 2] = 1001_u16.to_be_bytes();

/// One direction of a WebSocket.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; LONGEST_HEAD],
    /// Bytes of the head that have come; 0 between frames.
    have: usize,
    /// What is left of the present payload.
    payload: u64,
    closed: bool,
}

impl Frames {
    /// Takes note of bytes that pass.
    pub(super) fn note(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes {
            if self.payload > 0 {
                let skipped = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
                self.payload -= skipped as u64;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            self.head[self.have] = *first;
            self.have += 1;
            bytes = rest;
            if self.have == self.head_len() {
                self.payload = self.payload_len();
                self.closed |= self.head[0] & OPCODE == CLOSE;
                self.have = 0;
            }
        }
    }

    /// Bytes that at least are to come until the present frame ends; 0 between frames.
    pub(super) fn missing(&self) -> u64 {
        match self.have {
            0 => self.payload,
            have => (self.head_len() - have) as u64,
        }
    }

    /// Whether a close frame has passed, behind which nothing may be sent.
    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    /// The length of the head, as far as it is known.
    fn head_len(&self) -> usize {
        if self.have < 2 {
            return 2;
        }
        let length = match self.head[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.head[1] & MASKED == 0 { 0 } else { 4 };
        2 + length + mask
    }

    fn payload_len(&self) -> u64 {
        let big_endian = |bytes: &[u8]| bytes.iter().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
        match self.head[1] & !MASKED {
            126 => big_endian(&self.head[2..4]),
            127 => big_endian(&self.head[2..10]),
            short => short.into(),
        }
    }
}

/// A close frame that says so; masked as from a client, if there is a mask (§5.3).
pub(super) fn going_away(mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut frame = vec![0x80 | CLOSE];
    match mask {
        None => {
            frame.push(GOING_AWAY.len() as u8);
            frame.extend(GOING_AWAY);
        }
        Some(mask) => {
            frame.push(MASKED | GOING_AWAY.len() as u8);
            frame.extend(mask);
            frame.extend(GOING_AWAY.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
        }
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text frame with so long a payload.
    fn text(len: usize, masked: bool) -> Vec<u8> {
        let bit = if masked { MASKED } else { 0 };
        let mut frame = vec![0x81];
        match len {
            0..126 => frame.push(bit | len as u8),
            126..65_536 => {
                frame.push(bit | 126);
                frame.extend((len as u16).to_be_bytes());
            }
            _ => {
                frame.push(bit | 127);
                frame.extend((len as u64).to_be_bytes());
            }
        }
        frame.extend(vec![0xff; len + if masked { 4 } else { 0 }]);
        frame
    }

    #[test]
    fn the_end_of_each_frame_is_found_however_it_is_cut() {
        for len in [0, 1, 125, 126, 65_535, 65_536, 70_000] {
            for masked in [false, true] {
                let bytes = [text(len, masked), text(3, masked)].concat();
                for cut in (0..bytes.len()).step_by(len / 20 + 1) {
                    let mut frames = Frames::default();
                    frames.note(&bytes[..cut]);
                    let at_boundary = cut == 0 || cut == bytes.len() - text(3, masked).len();
                    assert_eq!(frames.missing() == 0, at_boundary, "{len} {masked} {cut}");
                    // Reading no more than what is missing stops at the end of a frame.
                    let mut at = cut;
                    while frames.missing() > 0 {
                        let next = at + usize::try_from(frames.missing()).unwrap();
                        frames.note(&bytes[at..next]);
                        at = next;
                    }
                    assert!(
                        [0, bytes.len() - text(3, masked).len(), bytes.len()].contains(&at),
                        "{len} {masked} {cut}"
                    );
                    frames.note(&bytes[at..]);
                    assert!(frames.missing() == 0 && !frames.closed());
                }
            }
        }
    }

    #[test]
    fn going_away_is_a_close_frame_with_that_status() {
        assert_eq!(going_away(None), [0x88, 2, 0x03, 0xe9]);
        assert_eq!(going_away(Some([1, 2, 3, 4])), [0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xe9 ^ 2]);
        for mask in [None, Some([1, 2, 3, 4])] {
            let mut frames = Frames::default();
            frames.note(&going_away(mask));
            assert!(frames.closed() && frames.missing() == 0);
        }
    }
}
