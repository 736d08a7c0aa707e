//! How much is read at once.

/// Room for reading that a connection starts with: an ordinary head and a small body.
pub(super) const READ_MIN: usize = 8 * 1024;
/// Room that reads grow to while a large body flows.
const READ_MAX: usize = 256 * 1024;

/// Room for the next read, in bytes: it grows while reads fill it, and shrinks when they leave most of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadSize(usize);

impl Default for ReadSize {
    fn default() -> Self {
        Self(READ_MIN)
    }
}

impl ReadSize {
    /// Room for a read of no more than `most` bytes.
    pub(super) fn room(self, most: usize) -> usize {
        self.0.min(most.max(READ_MIN))
    }

    /// A read has brought so much.
    pub(super) fn note(&mut self, got: usize) {
        if got >= self.0 {
            self.0 = (self.0 * 4).min(READ_MAX);
        } else if got < self.0 / 8 && self.0 > READ_MIN {
            self.0 /= 2;
        }
    }
}
