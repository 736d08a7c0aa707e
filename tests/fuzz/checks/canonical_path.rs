//! Canonical paths keep their invariants, and a canonical target means the same path in one way only.
//!
//! Input: a byte of options, the target.

use milecastle_matching::uri::{canonical_target, encode_path};
use milecastle_matching::{Ambiguity, UriOptions, canonical_path};

/// Panics if the input shows a fault.
pub(crate) fn try_input(data: &[u8]) {
    let [flags, target @ ..] = data else { return };
    let Ok(target) = std::str::from_utf8(target) else { return };
    let options =
        UriOptions { match_encoded_slash: flags & 1 != 0, delete_tail_slash: flags & 2 != 0, servlet: flags & 4 != 0 };
    let found = canonical_path(target, &options);
    let canonical = canonical_target(target, &options);
    assert_eq!(found.as_ref().err(), canonical.as_ref().err(), "both refuse, for the same reason");
    let (Ok(found), Ok(canonical)) = (found, canonical) else { return };
    for path in [&*found.path, found.uri()] {
        assert!(path.starts_with('/') && !path.contains("//") && !path.contains('\0'), "{path:?}");
        assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{path:?}");
        assert!(!options.delete_tail_slash || path == "/" || !path.ends_with('/'), "{path:?}");
    }
    // Some bytes have no other spelling, whatever an upstream makes of them.
    let remaining = Ambiguity::BACKSLASH.with(Ambiguity::CONTROL).with(Ambiguity::NOT_UTF8);
    let again = canonical_path(&canonical, &options).expect("a canonical target is a target");
    assert_eq!(again.uri(), found.uri(), "{canonical:?}");
    assert!(again.ambiguity.without(remaining).is_none(), "{canonical:?} {again:?}");
    assert_eq!(canonical_target(&canonical, &options).as_ref(), Ok(&canonical), "there is nothing left to do");
    // A path survives being written into a target.
    let plain = UriOptions::default();
    let encoded = encode_path(&found.path);
    let again = canonical_path(&encoded, &plain).expect("an encoded path is a target");
    assert_eq!(again.path, found.path);
    assert!(again.ambiguity.without(remaining).is_none(), "{encoded:?} {again:?}");
}
