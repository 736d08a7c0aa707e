//! What a node holds: its key, its certificate, and the CA that it trusts.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};

use crate::identity::parse;
use crate::tls::{client_config, client_verifier, is_of_clock, told};
use crate::{Fingerprint, IdentityError, NodeCertificate, PkiError};

/// Key, certificate and CA stand in one file, so that a crash never leaves parts of two identities.
const FILE: &str = "node.pem";

/// Where a file goes that is of no use.
const ASIDE: &str = "node.pem.bad";

const KEY_TAG: &str = "PRIVATE KEY";
const CERTIFICATE_TAG: &str = "CERTIFICATE";

/// Why a node has no usable keys.
#[derive(Debug, thiserror::Error)]
pub enum NodeKeysError {
    /// The file system.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others than the owner may read the key.
    #[error("{}: holds a private key and is open to others (mode {mode:03o}): chmod 600 it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds something else than a key, its certificate and a CA.
    #[error("{}: not the keys of a node: move it away and join again with a group token", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The CA is not the one that is trusted.
    #[error("the CA that was handed over has fingerprint {got}, trusted is {trusted}")]
    OtherCa {
        /// That of the CA that came.
        got: Fingerprint,
        /// That of the token, or of the CA known so far.
        trusted: Fingerprint,
    },
    /// The certificate is for another key.
    #[error("the certificate is not for this node's key")]
    OtherKey,
    /// The certificate is not valid now, or not signed by the CA.
    #[error("the certificate does not hold: {}", told(.0))]
    Certificate(#[from] rustls::Error),
    /// The certificate names no node.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Keys could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

impl NodeKeysError {
    /// Whether the certificate is over or has not begun. Of one that was just made that means that the clocks of this host and of
    /// the control plane differ.
    pub fn is_of_clock(&self) -> bool {
        matches!(self, Self::Certificate(error) if is_of_clock(error))
    }

    /// Whether what a file holds is at fault, so that nothing but other keys can help; not the file system, nor who may read
    /// the file.
    pub fn is_of_content(&self) -> bool {
        !matches!(self, Self::Io { .. } | Self::Open { .. })
    }
}

/// A new key that waits for its certificate.
pub struct KeyRequest {
    key: KeyPair,
    csr: Vec<u8>,
}

impl fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyRequest(..)")
    }
}

impl KeyRequest {
    /// Makes a key, ECDSA P-256.
    ///
    /// # Errors
    /// [`PkiError::Crypto`].
    pub fn generate() -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key)?.der().to_vec();
        Ok(Self { key, csr })
    }

    /// The signing request: PKCS #10 in DER.
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }

    /// Takes what the control plane answered (DER), after checking that the CA is the one `trusted` (the token's, or
    /// that of the keys so far), and that the certificate is for this key, of a node, signed by the CA and valid `now`.
    ///
    /// # Errors
    /// [`NodeKeysError`], of all but files.
    pub fn accept(
        self,
        chain: &[impl AsRef<[u8]>],
        ca: &[u8],
        trusted: &Fingerprint,
        now: SystemTime,
    ) -> Result<NodeKeys, NodeKeysError> {
        let got = Fingerprint::of(ca);
        if got != *trusted {
            return Err(NodeKeysError::OtherCa { got, trusted: *trusted });
        }
        let chain = chain.iter().map(|certificate| certificate.as_ref().to_vec().into()).collect();
        NodeKeys::of(self.key, chain, CertificateDer::from(ca.to_vec()), |_| now)
    }
}

/// A node's key, certificate and CA, which belong together.
pub struct NodeKeys {
    key: PrivatePkcs8KeyDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    ca: CertificateDer<'static>,
    certificate: NodeCertificate,
}

impl fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKeys").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl NodeKeys {
    /// Checks that the parts belong together, at the moment that `at` picks for the certificate.
    fn of(
        key: KeyPair,
        chain: Vec<CertificateDer<'static>>,
        ca: CertificateDer<'static>,
        at: impl FnOnce(&NodeCertificate) -> SystemTime,
    ) -> Result<Self, NodeKeysError> {
        let (leaf, intermediates) = chain.split_first().ok_or(IdentityError::Malformed)?;
        let certificate = NodeCertificate::of(leaf)?;
        let own_key =
            parse(leaf).is_some_and(|leaf| *leaf.public_key().subject_public_key.data == *key.public_key_raw());
        if !own_key {
            return Err(NodeKeysError::OtherKey);
        }
        let at = at(&certificate).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        client_verifier(&ca)?.verify_client_cert(leaf, intermediates, UnixTime::since_unix_epoch(at))?;
        Ok(Self { key: key.serialize_der().into(), chain, ca, certificate })
    }

    /// Reads the keys of a directory; `None` if there are none. An expired certificate is no error here.
    ///
    /// # Errors
    /// [`NodeKeysError::Io`], [`NodeKeysError::Open`], and the others if the parts do not belong together.
    pub fn load(directory: &Path) -> Result<Option<Self>, NodeKeysError> {
        let path = directory.join(FILE);
        let io_error = |source| NodeKeysError::Io { path: path.clone(), source };
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(io_error)?,
        };
        let mode = file.metadata().map_err(io_error)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(NodeKeysError::Open { path, mode });
        }
        let malformed = || NodeKeysError::Malformed { path: path.clone() };
        let text = io::read_to_string(file).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => malformed(),
            _ => io_error(error),
        })?;
        let mut blocks = pem::parse_many(text).map_err(|_| malformed())?.into_iter();
        let key = blocks.next().filter(|block| block.tag() == KEY_TAG).ok_or_else(malformed)?;
        let key = PrivatePkcs8KeyDer::from(key.into_contents());
        let key = KeyPair::try_from(&key).map_err(|_| malformed())?;
        let mut chain = Vec::new();
        for block in blocks {
            if block.tag() != CERTIFICATE_TAG {
                return Err(malformed());
            }
            chain.push(CertificateDer::from(block.into_contents()));
        }
        let ca = chain.pop().ok_or_else(malformed)?;
        Self::of(key, chain, ca, |certificate| certificate.not_before).map(Some)
    }

    /// Renames the file of a directory to `node.pem.bad`, in place of one that was put aside before. Gives both paths.
    ///
    /// # Errors
    /// [`NodeKeysError::Io`].
    pub fn put_aside(directory: &Path) -> Result<(PathBuf, PathBuf), NodeKeysError> {
        let (path, aside) = (directory.join(FILE), directory.join(ASIDE));
        match fs::rename(&path, &aside) {
            Ok(()) => Ok((path, aside)),
            Err(source) => Err(NodeKeysError::Io { path, source }),
        }
    }

    /// Writes the keys into a directory, made if need be (0700), in place of those that are there: all or nothing, and on
    /// the disk when this returns. The file is for its owner only (0600).
    ///
    /// # Errors
    /// [`NodeKeysError::Io`].
    pub fn save(&self, directory: &Path) -> Result<(), NodeKeysError> {
        let io_error = |path: &Path| {
            let path = path.to_owned();
            move |source| NodeKeysError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io_error(directory))?;
        let path = directory.join(FILE);
        let new = directory.join(format!("{FILE}.new"));
        // One that a crash left behind may have another mode.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&new)(error)),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(io_error(&new))?;
        file.write_all(self.pem().as_bytes()).and_then(|()| file.sync_all()).map_err(io_error(&new))?;
        fs::rename(&new, &path).map_err(io_error(&path))?;
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(io_error(directory))
    }

    /// The content of the file: key, chain, CA.
    fn pem(&self) -> String {
        let mut blocks = vec![pem::Pem::new(KEY_TAG, self.key.secret_pkcs8_der())];
        blocks.extend(self.chain.iter().chain([&self.ca]).map(|der| pem::Pem::new(CERTIFICATE_TAG, der.as_ref())));
        pem::encode_many(&blocks)
    }

    /// Whose certificate it is, and how long it lasts.
    pub fn certificate(&self) -> &NodeCertificate {
        &self.certificate
    }

    /// The CA that is trusted; what [`KeyRequest::accept`] wants when the certificate is renewed.
    pub fn ca_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.ca)
    }

    /// Whether two thirds of the certificate's life are over.
    pub fn needs_renewal(&self, now: SystemTime) -> bool {
        now >= self.certificate.renew_at()
    }

    /// Whether the certificate is over: the node must join again with a token.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        now >= self.certificate.not_after
    }

    /// TLS towards the control plane: shows the certificate, trusts the CA and nothing else.
    ///
    /// # Errors
    /// [`PkiError::Tls`].
    pub fn client_config(&self) -> Result<ClientConfig, PkiError> {
        let key = PrivateKeyDer::Pkcs8(self.key.clone_key());
        Ok(client_config(&self.ca, self.chain.clone(), key)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;
    use crate::{Ca, NodeIdentity};

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
    }

    fn keys(ca: &Ca, node_id: &str) -> NodeKeys {
        let request = KeyRequest::generate().unwrap();
        let identity = NodeIdentity::new("prod", node_id).unwrap();
        let issued = ca.sign_node(request.csr(), &identity, now(), HOUR).unwrap();
        request.accept(&issued.chain, ca.certificate(), &ca.fingerprint(), now()).unwrap()
    }

    #[test]
    fn keys_survive_a_restart_even_expired() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("deep/keys");
        assert!(NodeKeys::load(&directory).unwrap().is_none());
        let ca = Ca::generate(now()).unwrap();
        for node_id in ["n1", "n2"] {
            let saved = keys(&ca, node_id);
            saved.save(&directory).unwrap();
            let loaded = NodeKeys::load(&directory).unwrap().unwrap();
            assert_eq!(loaded.certificate(), saved.certificate());
            assert_eq!(loaded.certificate().identity.node_id(), node_id);
            assert_eq!(loaded.pem(), saved.pem());
            assert_eq!(loaded.ca_fingerprint(), ca.fingerprint());
            loaded.client_config().unwrap();
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&directory.join(FILE))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn what_a_crash_left_behind_is_no_obstacle() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("node.pem.new"), "half of a ke").unwrap();
        keys(&Ca::generate(now()).unwrap(), "n1").save(home.path()).unwrap();
        let file = home.path().join(FILE);
        assert_eq!(fs::metadata(file).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_open_to_others_is_refused() {
        let home = tempfile::tempdir().unwrap();
        keys(&Ca::generate(now()).unwrap(), "n1").save(home.path()).unwrap();
        fs::set_permissions(home.path().join(FILE), fs::Permissions::from_mode(0o640)).unwrap();
        let error = NodeKeys::load(home.path()).unwrap_err();
        assert!(matches!(error, NodeKeysError::Open { mode: 0o640, .. }) && !error.is_of_content());
        assert!(error.to_string().contains("640"));
    }

    #[test]
    fn a_file_of_something_else_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let ca = Ca::generate(now()).unwrap();
        let (one, other) = (keys(&ca, "n1"), keys(&ca, "n2"));
        one.save(home.path()).unwrap();
        let path = home.path().join(FILE);
        let whole = fs::read_to_string(&path).unwrap();
        let load_of = |text: &str| {
            fs::write(&path, text).unwrap();
            let error = NodeKeys::load(home.path()).unwrap_err();
            assert!(error.is_of_content(), "{error}");
            error
        };
        assert!(matches!(load_of(""), NodeKeysError::Malformed { .. }));
        assert!(matches!(load_of("key: value"), NodeKeysError::Malformed { .. }));
        // Swapped: certificate first.
        let (key, certificates) = whole.split_at(whole.find("-----BEGIN CERTIFICATE").unwrap());
        assert!(matches!(load_of(&format!("{certificates}{key}")), NodeKeysError::Malformed { .. }));
        assert!(matches!(load_of(key), NodeKeysError::Malformed { .. }));
        let other = other.pem();
        let (other_key, _) = other.split_at(other.find("-----BEGIN CERTIFICATE").unwrap());
        assert!(matches!(load_of(&format!("{other_key}{certificates}")), NodeKeysError::OtherKey));
        let foreign_ca = Ca::generate(now()).unwrap().certificate_pem();
        let (leaf, _) = certificates.split_at(certificates.rfind("-----BEGIN CERTIFICATE").unwrap());
        assert!(matches!(load_of(&format!("{key}{leaf}{foreign_ca}")), NodeKeysError::Certificate(_)));
        // However much of it a crash or a full disk has left.
        for length in 0..whole.trim_end().len() {
            load_of(whole.get(..length).unwrap());
        }
        fs::write(&path, [0xff; 100]).unwrap();
        assert!(NodeKeys::load(home.path()).unwrap_err().is_of_content());
        let (from, aside) = NodeKeys::put_aside(home.path()).unwrap();
        assert_eq!((from, fs::read(&aside).unwrap()), (path, vec![0xff; 100]));
        assert!(NodeKeys::load(home.path()).unwrap().is_none());
    }

    #[test]
    fn only_an_answer_that_fits_is_accepted() {
        let (ca, other) = (Ca::generate(now()).unwrap(), Ca::generate(now()).unwrap());
        let pin = ca.fingerprint();
        let identity = NodeIdentity::new("prod", "n1").unwrap();
        // Signs a request with `signer` and accepts it with `ca`, `later`.
        let accept = |signer: &Ca, request: KeyRequest, ca: &Ca, later: Duration| {
            let issued = signer.sign_node(request.csr(), &identity, now(), HOUR).unwrap();
            request.accept(&issued.chain, ca.certificate(), &pin, now() + later)
        };
        let request = || KeyRequest::generate().unwrap();
        assert!(accept(&ca, request(), &ca, Duration::ZERO).is_ok());
        assert!(matches!(accept(&other, request(), &other, Duration::ZERO), Err(NodeKeysError::OtherCa { .. })));
        assert!(matches!(accept(&other, request(), &ca, Duration::ZERO), Err(NodeKeysError::Certificate(_))));
        let late = accept(&ca, request(), &ca, HOUR * 2).unwrap_err();
        assert!(
            matches!(late, NodeKeysError::Certificate(_)) && late.to_string().contains("is the clock right"),
            "{late}"
        );
        // The same words whenever it is tried, so that a log can say them once.
        assert_eq!(accept(&ca, request(), &ca, HOUR * 3).unwrap_err().to_string(), late.to_string());

        let issued = ca.sign_node(request().csr(), &identity, now(), HOUR).unwrap();
        let answer = request().accept(&issued.chain, ca.certificate(), &pin, now());
        assert!(matches!(answer, Err(NodeKeysError::OtherKey)));
        let nothing: [&[u8]; 0] = [];
        let answer = request().accept(&nothing, ca.certificate(), &pin, now());
        assert!(matches!(answer, Err(NodeKeysError::Identity(IdentityError::Malformed))));
    }

    #[test]
    fn renewal_comes_before_the_end() {
        let keys = keys(&Ca::generate(now()).unwrap(), "n1");
        let end = keys.certificate().not_after;
        assert!(!keys.needs_renewal(now()) && !keys.is_expired(now()));
        assert!(keys.needs_renewal(now() + HOUR * 2 / 3) && !keys.is_expired(now() + HOUR * 2 / 3));
        assert!(keys.needs_renewal(end) && keys.is_expired(end));
    }
}
