//! OCSP stapling (`docs/spec/tls.md` §7, RFC 6960, RFC 6066 §8): what the authority says of a certificate is shown along with it.
//!
//! [`Stapling`] follows the configuration. Each certificate of an ssl object that asks for stapling has a task on the side
//! runtime ([`refresh`]), which asks the responder that the certificate names and puts what may be stapled into a
//! [`slot::Slot`]; handshakes read it there through a [`Staple`].
//!
//! Invariants:
//! - No handshake waits for a responder, or fails because of one.
//! - Nothing is stapled that has expired. Unless the object says `skip_verify`, nothing is stapled that the issuer, or a
//!   responder that it has certified, has not signed, or that says anything but `good`.
//! - A response that is still good stays in use while no newer one can be had, but not beyond word that the certificate is
//!   revoked.
//! - Responses belong to the certificate: whatever object shows it has them, and changes elsewhere leave them alone.
//! - Nothing is asked, and nothing is done at a handshake, for objects that do not ask for it.
//!
//! Deliberately absent: keeping responses on disk, checking of clients' certificates, and following redirections, which would
//! lead where the certificate does not say.

mod asker;
mod certificate;
mod judged;
mod message;
mod refresh;
#[cfg(test)]
mod samples;
mod slot;
mod verify;

pub use judged::{Judged, judge};
pub(crate) use slot::Staple;

use crate::current::Current;
use asker::Asker;
use aws_lc_rs::digest::{Context, SHA256};
use certificate::Certificate;
use milecastle_export::Background;
use milecastle_settings::Ocsp as Settings;
use milecastle_snapshot::{CompiledSsl, StapledSsls};
use refresh::{Refresh, Tally};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use slot::Slot;
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// What is counted, over all certificates.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Certificates that have a response.
    pub(crate) stapled: AtomicU64,
    /// Certificates that should have one and have none.
    pub(crate) without: AtomicU64,
    /// Questions to responders.
    pub(crate) questions: AtomicU64,
    /// Those of them that have brought nothing to staple.
    pub(crate) failures: AtomicU64,
}

impl Figures {
    fn certificates(&self, stapled: bool) -> &AtomicU64 {
        if stapled { &self.stapled } else { &self.without }
    }
}

/// A certificate with its chain, and whether its responses are verified: what has responses of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    /// SHA-256 over the chain.
    chain: [u8; 32],
    skip_verify: bool,
}

impl Identity {
    fn of(chain: &[CertificateDer<'_>], skip_verify: bool) -> Self {
        let mut context = Context::new(&SHA256);
        chain.iter().for_each(|certificate| context.update(certificate));
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Self { chain: digest, skip_verify }
    }
}

/// What ssl objects say of the responses for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Terms {
    skip_verify: bool,
    /// A newer response is asked for after this time at the latest; the shortest of several objects.
    ttl: Duration,
}

/// A certificate that should have a response.
struct Wanted<'a> {
    chain: &'a [CertificateDer<'static>],
    terms: Terms,
    ssl: &'a Arc<str>,
}

/// A certificate that is asked about. No more once this is dropped.
struct Followed {
    terms: Terms,
    /// `None`: nobody can be asked. Then it counts all the same.
    task: Result<AbortHandle, Tally>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        if let Ok(task) = &self.task {
            task.abort();
        }
    }
}

/// The responses for the certificates of a node.
pub(crate) struct Stapling {
    /// Those that a task or a server configuration has.
    slots: Mutex<HashMap<Identity, Weak<Slot>>>,
    asker: Arc<Asker>,
    side: Handle,
}

impl Stapling {
    /// `side` is the runtime that responders are asked on, `background` how they are reached.
    pub(crate) fn new(settings: &Settings, background: Background, side: Handle, figures: Arc<Figures>) -> Arc<Self> {
        let asker = Arc::new(Asker::new(settings, background, figures));
        Arc::new(Self { slots: Mutex::default(), asker, side })
    }

    /// From now on, asks about the certificates of the configuration in force.
    pub(crate) fn follow(self: &Arc<Self>, current: &Arc<Current>) {
        let mut published = current.subscribe();
        let (this, current) = (Arc::downgrade(self), Arc::downgrade(current));
        self.side.spawn(async move {
            let mut seen = StapledSsls::default();
            let mut followed = HashMap::new();
            loop {
                {
                    let (Some(this), Some(current)) = (this.upgrade(), current.upgrade()) else { return };
                    let ssls = current.load().stapled().clone();
                    if !ssls.is(&seen) {
                        this.settle(&ssls, &mut followed);
                        seen = ssls;
                    }
                }
                if published.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// The responses for a certificate of an ssl object; `None` if it does not ask for any.
    pub(crate) fn staple(&self, ssl: &CompiledSsl, key: &CertifiedKey) -> Option<Staple> {
        let terms = ssl.stapling.as_ref()?;
        Some(Staple::new(self.slot(Identity::of(&key.cert, terms.skip_verify))))
    }

    fn slot(&self, identity: Identity) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = slots.get(&identity).and_then(Weak::upgrade) {
            return known;
        }
        slots.retain(|_, slot| slot.strong_count() > 0);
        let slot = Arc::new(Slot::default());
        slots.insert(identity, Arc::downgrade(&slot));
        slot
    }

    /// Begins to ask about certificates that are new, and ends it for those that are gone.
    fn settle(&self, ssls: &StapledSsls, followed: &mut HashMap<Identity, Followed>) {
        let mut all: HashMap<Identity, Wanted<'_>> = HashMap::new();
        for ssl in ssls.iter() {
            let Some(own) = &ssl.stapling else { continue };
            let terms = Terms { skip_verify: own.skip_verify, ttl: own.cache_ttl };
            for key in &ssl.keys {
                let identity = Identity::of(&key.cert, own.skip_verify);
                let wanted = all.entry(identity).or_insert(Wanted { chain: &key.cert, terms, ssl: &ssl.id });
                wanted.terms.ttl = wanted.terms.ttl.min(terms.ttl);
                wanted.ssl = wanted.ssl.min(&ssl.id);
            }
        }
        followed.retain(|identity, own| all.get(identity).is_some_and(|wanted| wanted.terms == own.terms));
        for (identity, wanted) in all {
            followed.entry(identity).or_insert_with(|| self.start(identity, &wanted));
        }
    }

    fn start(&self, identity: Identity, wanted: &Wanted<'_>) -> Followed {
        let slot = self.slot(identity);
        let tally = Tally::new(self.asker.figures.clone(), slot.until().is_some());
        let (terms, ssl) = (wanted.terms, wanted.ssl.clone());
        let task = match Certificate::of(wanted.chain) {
            Ok(certificate) => {
                let refresh = Refresh { ssl, certificate, terms, slot, asker: self.asker.clone(), tally };
                Ok(self.side.spawn(refresh.run()).abort_handle())
            }
            Err(error) => {
                tracing::error!(ssl = &*ssl, "no ocsp response send: {error}");
                Err(tally)
            }
        };
        Followed { terms, task }
    }
}
