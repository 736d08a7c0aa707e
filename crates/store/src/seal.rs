//! Sealing: AES-256-GCM under a data key, which the operator's sealing key wraps.
//!
//! A sealed blob is `version (1) ‖ data key id (4, big endian) ‖ nonce (12) ‖ ciphertext and tag`. What it belongs to (group,
//! kind, id) is authenticated with it, so a blob moved to another row does not open. Nonces are random: one data key may seal
//! 2^32 blobs, which at ten writes a second is thirteen years. The key's id in the blob lets a new data key seal from some day
//! on while the old ones still open.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::error::StoreError;

/// Length of a key in bytes.
pub(crate) const KEY_LEN: usize = 32;
const VERSION: u8 = 1;
const HEAD_LEN: usize = 1 + 4 + NONCE_LEN;

/// The key that wraps the data keys: 32 bytes, given by the operator or made at the first start.
#[derive(Clone)]
pub struct SealingKey([u8; KEY_LEN]);

/// Where the sealing key comes from.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// A file with the key's text form. Missing when a database is used for the first time, it is made, mode 0600.
    File(PathBuf),
    /// The key itself, from an environment variable or a credential store.
    Key(SealingKey),
    /// One of two, while the key is being replaced: whichever the database is sealed with ([`crate::reseal`]).
    Replaced {
        /// Where the key is that is to go.
        by: Box<KeySource>,
        /// The file of the one that takes its place.
        next: PathBuf,
    },
}

/// Why a sealing key could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SealingKeyError {
    /// Not a key's text form.
    #[error("the sealing key {0} is not 32 bytes in base64; make one with: head -c 32 /dev/urandom | base64")]
    Form(String),
    /// The file cannot be read or made.
    #[error("sealing key file {} cannot be {action}: {cause}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// `read` or `made`.
        action: &'static str,
        /// The operating system's word.
        cause: io::Error,
    },
    /// There is no key yet.
    #[error(
        "there is no sealing key: make one with `head -c 32 /dev/urandom | base64`, and name its file as sealing.key_file"
    )]
    Missing,
    /// What is sealed does not open.
    #[error("it is sealed with another sealing key, or was altered: seal it anew with `milecastle sealing-key seal`")]
    Closed,
}

impl SealingKey {
    /// Reads the text form: 32 bytes in base64, white space around it ignored.
    pub fn from_text(text: &str) -> Result<SealingKey, SealingKeyError> {
        let bytes = STANDARD.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(SealingKey).ok_or_else(|| SealingKeyError::Form("given".to_owned()))
    }

    /// A new random key.
    pub fn generate() -> SealingKey {
        SealingKey(random())
    }

    /// Names the key without telling it.
    pub fn fingerprint(&self) -> String {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.0), b"milecastle sealing key fingerprint");
        hex(tag.as_ref().first_chunk::<8>().expect("SHA-256 has 32 bytes"))
    }

    /// Wraps data key `id`.
    pub(crate) fn wrap(&self, id: u32, data_key: &[u8; KEY_LEN]) -> Vec<u8> {
        seal(&aead(&self.0), id, &data_key_context(id), data_key)
    }

    /// Inverse of [`SealingKey::wrap`]; `None` if another key wrapped it.
    pub(crate) fn unwrap(&self, id: u32, wrapped: Vec<u8>) -> Option<[u8; KEY_LEN]> {
        open(&aead(&self.0), &data_key_context(id), wrapped)?.as_ref().try_into().ok()
    }
}

/// What begins a text that is sealed.
const SEALED: &str = "sealed:";

/// Shows the fingerprint, not the key.
impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.fingerprint())
    }
}

impl KeySource {
    /// The key that a database is sealed with, by its fingerprint, or what there is in its place; `None` if there is no file.
    pub(crate) fn find(&self, sealed_with: &str) -> Result<Option<SealingKey>, SealingKeyError> {
        if let KeySource::Replaced { next, .. } = self {
            let next = KeySource::File(next.clone()).read()?;
            if let Some(key) = next.filter(|key| key.fingerprint() == sealed_with) {
                return Ok(Some(key));
            }
        }
        self.read()
    }

    /// The key; `None` if its file does not exist.
    pub(crate) fn read(&self) -> Result<Option<SealingKey>, SealingKeyError> {
        let path = match self {
            KeySource::Key(key) => return Ok(Some(key.clone())),
            KeySource::Replaced { by, .. } => return by.read(),
            KeySource::File(path) => path,
        };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(SealingKeyError::File { path: path.clone(), action: "read", cause }),
        };
        warn_if_open_to_others(path);
        let key = SealingKey::from_text(&text);
        key.map(Some).map_err(|_| SealingKeyError::Form(format!("in {}", path.display())))
    }

    /// Seals a text for [`KeySource::open_text`]; while the key is being replaced, with the one that stays.
    pub fn seal_text(&self, text: &str) -> Result<String, SealingKeyError> {
        let next = match self {
            KeySource::Replaced { next, .. } => KeySource::File(next.clone()).read()?,
            _ => None,
        };
        let key = match next {
            Some(next) => next,
            None => self.read()?.ok_or(SealingKeyError::Missing)?,
        };
        Ok(format!("{SEALED}{}", STANDARD.encode(seal(&aead(&key.0), 0, &text_context(), text.as_bytes()))))
    }

    /// A text as it was before it was sealed; one that is not sealed as it is.
    pub fn open_text(&self, text: &str) -> Result<String, SealingKeyError> {
        let Some(sealed) = text.strip_prefix(SEALED) else { return Ok(text.to_owned()) };
        let blob = STANDARD.decode(sealed.trim()).map_err(|_| SealingKeyError::Closed)?;
        let next = match self {
            KeySource::Replaced { next, .. } => KeySource::File(next.clone()).read()?,
            _ => None,
        };
        let mut keys = self.read()?.into_iter().chain(next);
        let opened = keys.find_map(|key| open(&aead(&key.0), &text_context(), blob.clone()));
        opened.and_then(|text| String::from_utf8(text.into()).ok()).ok_or(SealingKeyError::Closed)
    }

    /// The file of the key, if it is in one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            KeySource::Key(_) => None,
            KeySource::File(path) => Some(path),
            KeySource::Replaced { by, .. } => by.file(),
        }
    }

    /// The key, made first if its file does not exist. Of several who make it at once all get the same.
    pub(crate) fn read_or_make(&self) -> Result<SealingKey, SealingKeyError> {
        if let Some(key) = self.read()? {
            return Ok(key);
        }
        let path = self.file().expect("a key that was given reads");
        make_file(path).map_err(|cause| SealingKeyError::File { path: path.to_owned(), action: "made", cause })?;
        self.read()?.ok_or_else(|| SealingKeyError::File {
            path: path.to_owned(),
            action: "read",
            cause: io::ErrorKind::NotFound.into(),
        })
    }
}

/// Writes a new key aside and links it into place: the file appears whole, and one that exists is never replaced.
fn make_file(path: &Path) -> io::Result<()> {
    let aside = path.with_extension(format!("new-{}", hex(&random::<8>())));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        writeln!(file, "{}", STANDARD.encode(SealingKey::generate().0))?;
        file.sync_all()?;
        match fs::hard_link(&aside, path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(()),
        }
    })();
    match fs::remove_file(&aside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => written.and(Err(e)),
        _ => written,
    }
}

/// Says in the log that every user of the machine can read the sealing key in this file, where it is so.
pub fn warn_if_open_to_others(path: &Path) {
    let mode = fs::metadata(path).map(|meta| meta.permissions().mode()).unwrap_or_default();
    if mode & 0o007 != 0 {
        tracing::warn!(path = %path.display(), "every user of this machine can read the sealing key; chmod 0600 it");
    }
}

/// What a blob belongs to. Parts are length-prefixed, so that no two lists of parts read the same.
pub(crate) struct Context(Vec<u8>);

impl Context {
    pub(crate) fn of(parts: &[&str]) -> Context {
        let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len() + 8).sum());
        for part in parts {
            bytes.extend((part.len() as u64).to_be_bytes());
            bytes.extend(part.as_bytes());
        }
        Context(bytes)
    }
}

fn text_context() -> Context {
    Context::of(&["text"])
}

fn data_key_context(id: u32) -> Context {
    Context::of(&["data key", &id.to_string()])
}

/// The data keys and the key of lookup digests.
pub(crate) struct Sealer {
    keys: BTreeMap<u32, RandomizedNonceKey>,
    active: u32,
    digests: hmac::Key,
}

impl Sealer {
    /// `data_keys` must not be empty; the greatest id seals.
    pub(crate) fn new(data_keys: &BTreeMap<u32, [u8; KEY_LEN]>) -> Sealer {
        let active = *data_keys.last_key_value().expect("a store has a data key").0;
        let keys = data_keys.iter().map(|(&id, key)| (id, aead(key))).collect();
        Sealer { keys, active, digests: hmac::Key::new(hmac::HMAC_SHA256, &[]) }
    }

    /// Sets the key of [`Sealer::digest`].
    pub(crate) fn with_digest_key(self, key: &[u8]) -> Sealer {
        Sealer { digests: hmac::Key::new(hmac::HMAC_SHA256, key), ..self }
    }

    pub(crate) fn seal(&self, context: &Context, plain: &[u8]) -> Vec<u8> {
        let key = self.keys.get(&self.active).expect("the active key is one of the keys");
        seal(key, self.active, context, plain)
    }

    /// Opens what [`Sealer::seal`] made for the same context.
    pub(crate) fn open(&self, context: &Context, blob: Vec<u8>) -> Result<Bytes, StoreError> {
        let unreadable = |why: &str| StoreError::corrupt(format!("a sealed value {why}"));
        let id = key_id(&blob).ok_or_else(|| unreadable("is of an unknown form"))?;
        let key =
            self.keys.get(&id).ok_or_else(|| unreadable("is under a data key made since this process started"))?;
        open(key, context, blob).ok_or_else(|| unreadable("does not open: it was altered or moved"))
    }

    /// Keyed hash of a lookup key, different for each group and plugin.
    pub(crate) fn digest(&self, group: &str, plugin: &str, value: &[u8]) -> [u8; 32] {
        let mut input = Context::of(&[group, plugin]).0;
        input.extend(value);
        hmac::sign(&self.digests, &input).as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

fn aead(key: &[u8; KEY_LEN]) -> RandomizedNonceKey {
    RandomizedNonceKey::new(&AES_256_GCM, key).expect("the key has the cipher's length")
}

fn seal(key: &RandomizedNonceKey, id: u32, context: &Context, plain: &[u8]) -> Vec<u8> {
    let mut blob = Vec::with_capacity(HEAD_LEN + plain.len() + AES_256_GCM.tag_len());
    blob.push(VERSION);
    blob.extend(id.to_be_bytes());
    blob.extend([0; NONCE_LEN]);
    blob.extend(plain);
    let (head, body) = blob.split_at_mut(HEAD_LEN);
    let (nonce, tag) =
        key.seal_in_place_separate_tag(Aad::from(&context.0), body).expect("a body is shorter than 64 GiB");
    head.last_chunk_mut::<NONCE_LEN>().expect("the head ends with the nonce").copy_from_slice(nonce.as_ref());
    blob.extend(tag.as_ref());
    blob
}

fn open(key: &RandomizedNonceKey, context: &Context, mut blob: Vec<u8>) -> Option<Bytes> {
    let (head, body) = blob.split_at_mut_checked(HEAD_LEN)?;
    let nonce = Nonce::from(head.last_chunk::<NONCE_LEN>()?);
    let len = key.open_in_place(nonce, Aad::from(&context.0), body).ok()?.len();
    Some(Bytes::from(blob).slice(HEAD_LEN..HEAD_LEN + len))
}

fn key_id(blob: &[u8]) -> Option<u32> {
    match blob.split_first_chunk::<5>()?.0 {
        [VERSION, id @ ..] => Some(u32::from_be_bytes(*id)),
        _ => None,
    }
}

/// Random bytes of the system.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system's random source answers");
    bytes
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(ids: &[u32]) -> Sealer {
        Sealer::new(&ids.iter().map(|&id| (id, [id.to_be_bytes()[3]; KEY_LEN])).collect()).with_digest_key(b"k")
    }

    #[test]
    fn opens_only_where_it_belongs() {
        let sealer = sealer(&[1]);
        let here = Context::of(&["default", "ssl", "1"]);
        let blob = sealer.seal(&here, b"hush");
        assert!(!blob.windows(4).any(|window| window == b"hush"));
        assert_eq!(sealer.open(&here, blob.clone()).unwrap(), "hush");
        assert!(sealer.open(&Context::of(&["default", "ssl1", ""]), blob.clone()).is_err());
        for at in 0..blob.len() {
            let mut altered = blob.clone();
            altered[at] ^= 1;
            assert!(sealer.open(&here, altered).is_err(), "byte {at}");
        }
        assert!(sealer.open(&here, blob[..20].to_vec()).is_err());
        assert!(sealer.open(&here, Vec::new()).is_err());
    }

    #[test]
    fn an_older_data_key_still_opens() {
        let here = Context::of(&["x"]);
        let old = sealer(&[1]).seal(&here, b"hush");
        let both = sealer(&[1, 2]);
        let new = both.seal(&here, b"hush");
        assert_eq!(both.open(&here, old).unwrap(), "hush");
        assert!(sealer(&[1]).open(&here, new).is_err());
    }

    #[test]
    fn digests_differ_by_group_and_plugin() {
        let sealer = sealer(&[1]);
        let digest = sealer.digest("a", "key-auth", b"v");
        assert_eq!(digest, sealer.digest("a", "key-auth", b"v"));
        for (group, plugin, value) in [("b", "key-auth", "v"), ("a", "jwt-auth", "v"), ("a", "key-auth", "w")] {
            assert_ne!(digest, sealer.digest(group, plugin, value.as_bytes()));
        }
        assert_ne!(digest, super::tests::sealer(&[1]).with_digest_key(b"other").digest("a", "key-auth", b"v"));
    }

    #[test]
    fn key_files() {
        let dir = milecastle_testkit::TempDir::new();
        let source = KeySource::File(dir.path().join("sealing.key"));
        assert!(source.read().unwrap().is_none());
        let made = source.read_or_make().unwrap();
        assert_eq!(source.read_or_make().unwrap().fingerprint(), made.fingerprint());
        let entries: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap()).collect();
        assert_eq!(entries.len(), 1, "nothing is left beside the key");
        assert_eq!(entries[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(dir.path().join("sealing.key"), "too short").unwrap();
        assert!(source.read().unwrap_err().to_string().contains("sealing.key is not 32 bytes in base64"));
    }

    #[test]
    fn texts_open_with_the_key_they_were_sealed_with() {
        let key = KeySource::Key(SealingKey::generate());
        let sealed = key.seal_text("postgres://u:hush@h/d").unwrap();
        assert!(sealed.starts_with("sealed:") && !sealed.contains("hush"));
        assert_eq!(key.open_text(&sealed).unwrap(), "postgres://u:hush@h/d");
        assert_eq!(key.open_text("postgres://u@h/d").unwrap(), "postgres://u@h/d");
        let other = KeySource::Key(SealingKey::generate());
        for (key, text) in [(&other, &*sealed), (&key, "sealed:aGVsbG8="), (&key, "sealed:%")] {
            assert!(matches!(key.open_text(text), Err(SealingKeyError::Closed)), "{text}");
        }
        // Who seals while the key is being replaced does so for the time after.
        let dir = milecastle_testkit::TempDir::new();
        let next = dir.path().join("next.key");
        let both = KeySource::Replaced { by: Box::new(key.clone()), next: next.clone() };
        assert_eq!(both.open_text(&both.seal_text("early").unwrap()).unwrap(), "early");
        fs::write(&next, STANDARD.encode([7; KEY_LEN])).unwrap();
        let anew = both.seal_text("late").unwrap();
        assert_eq!(KeySource::File(next).open_text(&anew).unwrap(), "late");
        assert_eq!(both.open_text(&sealed).unwrap(), "postgres://u:hush@h/d");
    }

    #[test]
    fn a_data_key_unwraps_with_its_sealing_key_only() {
        let (right, wrong) = (SealingKey::generate(), SealingKey::generate());
        let wrapped = right.wrap(1, &[7; KEY_LEN]);
        assert_eq!(right.unwrap(1, wrapped.clone()), Some([7; KEY_LEN]));
        assert_eq!(right.unwrap(2, wrapped.clone()), None);
        assert_eq!(wrong.unwrap(1, wrapped), None);
        assert!(!format!("{right:?}").contains(&STANDARD.encode(right.0)));
    }
}
