//! The cluster's certificate authority, the tokens it backs, and this replica's own certificate.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use milecastle_pki::{Ca, GroupToken, PkiError, ServerCertificate, ServerIdentity, TokenError};
use milecastle_settings::Certificates;
use milecastle_store::{Acting, NewToken, Store, StoreError};
use tokio::time::sleep;

/// Name of the store's secret that holds certificate and key.
const SECRET: &str = "cluster-ca";

/// How often the clock is looked at, which may be set while this runs; and the pause after a certificate could not be made.
const LOOK: Duration = Duration::from_secs(60);

/// Why there is no certificate authority, or no token of it.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the store holds is no certificate authority, or none can be made.
    #[error("the cluster's certificate authority: {0}")]
    Pki(#[from] PkiError),
    /// The group's name cannot stand in a token.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl AuthorityError {
    /// Whether the same may succeed later without anything being done to this program.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Store(error) if error.may_pass())
    }
}

/// As it lies in the store.
#[derive(serde::Serialize, serde::Deserialize)]
struct Stored {
    certificate: String,
    key: String,
}

/// The cluster's certificate authority: made at the first call, the same one for every process on the database ever after.
///
/// # Errors
/// [`AuthorityError::Store`], [`AuthorityError::Pki`].
pub async fn cluster_ca(store: &Store) -> Result<Ca, AuthorityError> {
    let stored = match store.secret_get(SECRET).await? {
        Some(stored) => stored,
        None => {
            let ca = Ca::generate(time_of(store))?;
            let made = Stored { certificate: ca.certificate_pem(), key: ca.key_pem() };
            let made = serde_json::to_vec(&made).expect("two strings have a JSON form");
            // Another first start may have been quicker: then its authority is the one.
            store.secret_get_or_create(SECRET, || made).await?
        }
    };
    let stored: Stored =
        serde_json::from_slice(stored.expose()).map_err(|_| PkiError::NotACa("what is stored is something else"))?;
    Ok(Ca::from_pem(&stored.certificate, &stored.key)?)
}

/// Makes a token with which nodes join `group`. [`GroupToken::expose`] gives its text, which is known to nobody afterwards:
/// the store keeps a hash.
///
/// `name` is what people call it; from `expires_at` on (Unix time in seconds) nobody joins with it, nodes that did stay.
///
/// # Errors
/// [`AuthorityError`]; [`StoreError::UnknownGroup`] if there is no such group.
pub async fn mint_group_token(
    by: Acting<'_>,
    group: &str,
    name: &str,
    expires_at: Option<u64>,
) -> Result<GroupToken, AuthorityError> {
    let token = GroupToken::mint(group, cluster_ca(by.store()).await?.fingerprint())?;
    let (id, group, name, hash) = (token.id().to_owned(), group.to_owned(), name.to_owned(), token.hash().to_bytes());
    by.token_create(&NewToken { id, group, name, hash, expires_at }).await?;
    Ok(token)
}

/// The certificate that this replica shows, replaced when two thirds of its life are over.
pub(super) struct Shown {
    /// Tells the time.
    store: Store,
    ca: Arc<Ca>,
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    life: Duration,
    identity: Arc<ServerIdentity>,
    due: SystemTime,
}

impl Shown {
    pub(super) fn new(store: &Store, ca: Arc<Ca>, settings: &Certificates) -> Result<Self, PkiError> {
        let (mut names, mut addresses) = (vec!["localhost".to_owned()], vec![[127, 0, 0, 1].into()]);
        addresses.push(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST));
        for name in &settings.names {
            match name.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => names.push(name.clone()),
            }
        }
        // A courtesy to other tools; nodes ask for a name of their own. A host may be called what no certificate can hold.
        names.extend(host_name().filter(|name| {
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte)) && name != "localhost"
        }));
        let life = settings.server_life.get();
        let certificate = ca.issue_server(&names, &addresses, time_of(store), life)?;
        let (identity, due) = (Arc::new(ServerIdentity::new(&certificate)?), due(&certificate));
        Ok(Self { store: store.clone(), ca, names, addresses, life, identity, due })
    }

    pub(super) fn identity(&self) -> Arc<ServerIdentity> {
        self.identity.clone()
    }

    /// Replaces the certificate when it is due, for ever.
    pub(super) async fn rotate(mut self) {
        loop {
            let left = self.due.duration_since(time_of(&self.store)).unwrap_or_default();
            if !left.is_zero() {
                sleep(left.min(LOOK)).await;
                continue;
            }
            match self.replace() {
                Ok(()) => tracing::info!("the DP manager shows a new certificate"),
                Err(error) => {
                    tracing::error!(%error, "no new certificate for the DP manager; the old one stays in use");
                    sleep(LOOK).await;
                }
            }
        }
    }

    fn replace(&mut self) -> Result<(), PkiError> {
        let now = time_of(&self.store);
        let certificate = self.ca.issue_server(&self.names, &self.addresses, now, self.life)?;
        self.identity.replace(&certificate)?;
        self.due = due(&certificate);
        Ok(())
    }
}

/// The time that certificates of the cluster are made and judged by: replicas must not differ in who may come.
pub(super) fn time_of(store: &Store) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(store.now())
}

/// When two thirds of a certificate's life are over.
fn due(certificate: &ServerCertificate) -> SystemTime {
    let life = certificate.not_after.duration_since(certificate.not_before).unwrap_or_default();
    certificate.not_before + life / 3 * 2
}

/// The name of this machine, as its kernel says it.
fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}
