//! Where a response lies between the task that fetches it and the handshakes that staple it.

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use std::time::SystemTime;

/// A response, and until when it may be stapled.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) response: Bytes,
    pub(super) until: SystemTime,
}

/// The response for one certificate.
#[derive(Debug, Default)]
pub(super) struct Slot(ArcSwapOption<Held>);

impl Slot {
    pub(super) fn put(&self, held: Held) {
        self.0.store(Some(Arc::new(held)));
    }

    pub(super) fn clear(&self) {
        self.0.store(None);
    }

    /// Until when what is in it may be stapled.
    pub(super) fn until(&self) -> Option<SystemTime> {
        self.0.load().as_ref().map(|held| held.until)
    }

    /// What may be stapled now.
    fn at(&self, now: SystemTime) -> Option<Arc<Held>> {
        self.0.load_full().filter(|held| held.until > now)
    }
}

/// One certificate's use of a slot.
#[derive(Debug)]
pub(crate) struct Staple {
    slot: Arc<Slot>,
    made: ArcSwapOption<Made>,
}

/// A certificate with its response, and what it was made of.
#[derive(Debug)]
struct Made {
    held: Arc<Held>,
    key: Arc<CertifiedKey>,
}

impl Staple {
    pub(super) fn new(slot: Arc<Slot>) -> Self {
        Self { slot, made: ArcSwapOption::empty() }
    }

    /// The certificate `plain` with the response that there is for it; the same object until there is another one. Without one,
    /// `plain` itself.
    pub(crate) fn on(&self, plain: &Arc<CertifiedKey>) -> Arc<CertifiedKey> {
        let Some(held) = self.slot.at(SystemTime::now()) else { return plain.clone() };
        if let Some(made) = &*self.made.load()
            && Arc::ptr_eq(&made.held, &held)
        {
            return made.key.clone();
        }
        let key = Arc::new(CertifiedKey { ocsp: Some(held.response.to_vec()), ..CertifiedKey::clone(plain) });
        self.made.store(Some(Arc::new(Made { held, key: key.clone() })));
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_testkit::tls::{Authority, Identity};
    use rustls::crypto::aws_lc_rs::sign::any_supported_type;
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    use std::time::Duration;

    fn plain() -> Arc<CertifiedKey> {
        let Identity { cert, key } = Authority::new("tests").issue(&["a.test"]);
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
        Arc::new(CertifiedKey::new(chain, any_supported_type(&key).unwrap()))
    }

    #[test]
    fn a_response_is_stapled_until_it_expires() {
        let (plain, slot) = (plain(), Arc::new(Slot::default()));
        let staple = Staple::new(slot.clone());
        assert!(Arc::ptr_eq(&staple.on(&plain), &plain));
        let hour = Duration::from_secs(3600);
        let held = |response: &'static [u8], until| Held { response: Bytes::from_static(response), until };
        slot.put(held(b"one", SystemTime::now() + hour));
        let one = staple.on(&plain);
        assert_eq!(one.ocsp.as_deref(), Some(&b"one"[..]));
        assert!(Arc::ptr_eq(&staple.on(&plain), &one), "it is made once");
        slot.put(held(b"two", SystemTime::now() + hour));
        assert_eq!(staple.on(&plain).ocsp.as_deref(), Some(&b"two"[..]));
        slot.put(held(b"old", SystemTime::now() - hour));
        assert!(Arc::ptr_eq(&staple.on(&plain), &plain), "nothing that has expired is stapled");
        slot.put(held(b"new", SystemTime::now() + hour));
        slot.clear();
        assert!(Arc::ptr_eq(&staple.on(&plain), &plain));
    }
}
