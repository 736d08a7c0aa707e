//! Decoding of bodies that are kept whole, never beyond a cap.

use std::io::{self, Read};

/// A content coding that can be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// No coding.
    Identity,
    /// `gzip`, also under its old name `x-gzip`.
    Gzip,
    /// `br`.
    Brotli,
}

impl Coding {
    /// Reads the value of `Content-Encoding`, empty if there is none; `None` for a coding that is not known, or several.
    pub(crate) fn parse(value: &str) -> Option<Self> {
        let value = value.trim_ascii();
        let is = |name: &str| value.eq_ignore_ascii_case(name);
        match () {
            () if value.is_empty() || is("identity") => Some(Self::Identity),
            () if is("gzip") || is("x-gzip") => Some(Self::Gzip),
            () if is("br") => Some(Self::Brotli),
            () => None,
        }
    }

    /// Decodes a body, at most `cap` bytes of it. Of a body that ends early (`cut`), what there is.
    ///
    /// # Errors
    /// The bytes are not of this coding.
    pub(crate) fn decode(self, body: &[u8], cap: usize, cut: bool) -> io::Result<Vec<u8>> {
        match self {
            Self::Identity => Ok(body.get(..cap).unwrap_or(body).to_vec()),
            Self::Gzip => drain(flate2::read::MultiGzDecoder::new(body), cap, cut),
            Self::Brotli => drain(brotli::Decompressor::new(body, 4096), cap, cut),
        }
    }
}

fn drain(mut decoder: impl Read, cap: usize, cut: bool) -> io::Result<Vec<u8>> {
    let mut decoded = Vec::new();
    let mut piece = [0; 8192];
    while decoded.len() < cap {
        match decoder.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => decoded.extend_from_slice(&piece[..read.min(cap - decoded.len())]),
            // The end is missing because it was cut off, not because the body is broken.
            Err(_) if cut && !decoded.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(decoded)
}

/// Bodies in codings, for tests.
#[cfg(test)]
pub(crate) mod encoded {
    use std::io::Write;

    pub(crate) fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    pub(crate) fn brotli(body: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::new();
        let mut encoder = ::brotli::CompressorWriter::new(&mut encoded, 4096, 5, 22);
        encoder.write_all(body).unwrap();
        drop(encoder);
        encoded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codings_are_decoded_up_to_the_cap() {
        let body = b"hello ".repeat(5000);
        for (coding, bytes) in [
            (Coding::Gzip, encoded::gzip(&body)),
            (Coding::Brotli, encoded::brotli(&body)),
            (Coding::Identity, body.clone()),
        ] {
            assert_eq!(coding.decode(&bytes, usize::MAX, false).unwrap(), body);
            assert_eq!(coding.decode(&bytes, 7, false).unwrap(), b"hello h");
        }
    }

    #[test]
    fn a_bomb_is_cut() {
        let bomb = encoded::gzip(&vec![0; 50_000_000]);
        assert_eq!(Coding::Gzip.decode(&bomb, 1000, false).unwrap().len(), 1000);
    }

    #[test]
    fn broken_bodies_are_errors_and_cut_ones_are_not() {
        let random: Vec<u8> = (0_u32..40_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for (coding, bytes) in [(Coding::Gzip, encoded::gzip(&random)), (Coding::Brotli, encoded::brotli(&random))] {
            let half = &bytes[..bytes.len() / 2];
            assert!(coding.decode(half, usize::MAX, false).is_err());
            let kept = coding.decode(half, usize::MAX, true).unwrap();
            assert!(!kept.is_empty() && random.starts_with(&kept));
            assert!(coding.decode(b"not encoded at all", usize::MAX, true).is_err());
        }
    }

    #[test]
    fn names_of_codings() {
        #[rustfmt::skip]
        let table = [
            ("", Some(Coding::Identity)), (" GZIP ", Some(Coding::Gzip)), ("x-gzip", Some(Coding::Gzip)),
            ("br", Some(Coding::Brotli)), ("zstd", None), ("gzip, br", None),
        ];
        for (name, coding) in table {
            assert_eq!(Coding::parse(name), coding);
        }
    }
}
