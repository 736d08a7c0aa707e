//! The packet CONNECT, as far as its client identifier (MQTT 3.1.1 §3.1, MQTT 5.0 §3.1).

/// Control packet type and flags of CONNECT.
const CONNECT: u8 = 0x10;
/// The level from which on the packet has properties.
const WITH_PROPERTIES: u8 = 5;

/// What of the packet is of use here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Connect<'a> {
    pub(super) protocol_name: &'a [u8],
    pub(super) protocol_level: u8,
    pub(super) client_id: &'a str,
}

/// Why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Incomplete {
    /// More bytes may make one.
    More,
    /// They may not.
    Malformed,
}

/// Bytes to take from, of a packet that may not be there as a whole.
struct Reader<'a> {
    bytes: &'a [u8],
    /// Bytes of the packet that are left, there or not.
    left: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Incomplete> {
        self.left = self.left.checked_sub(count).ok_or(Incomplete::Malformed)?;
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(Incomplete::More)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Incomplete> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// Bytes behind their number in two bytes.
    fn string(&mut self) -> Result<&'a [u8], Incomplete> {
        let count = self.take(2)?;
        self.take(usize::from(u16::from_be_bytes([count[0], count[1]])))
    }

    /// A number of seven bits a byte, least first; four bytes at most.
    fn variable(&mut self) -> Result<usize, Incomplete> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Incomplete::Malformed)
    }
}

impl<'a> Connect<'a> {
    /// Reads the packet that a connection begins with. A name of another protocol is found as soon as it is there.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Incomplete> {
        let mut head = Reader { bytes, left: usize::MAX };
        if head.byte()? != CONNECT {
            return Err(Incomplete::Malformed);
        }
        let left = head.variable()?;
        let mut packet = Reader { bytes: head.bytes, left };
        let protocol_name = packet.string()?;
        let protocol_level = packet.byte()?;
        let flags = packet.byte()?;
        if flags & 1 == 1 {
            // The reserved bit.
            return Err(Incomplete::Malformed);
        }
        packet.take(2)?;
        if protocol_level >= WITH_PROPERTIES {
            let properties = packet.variable()?;
            packet.take(properties)?;
        }
        let client_id = std::str::from_utf8(packet.string()?).map_err(|_| Incomplete::Malformed)?;
        Ok(Self { protocol_name, protocol_level, client_id })
    }
}
