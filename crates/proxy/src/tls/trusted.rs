//! Authorities that the gateway trusts as a client.

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use std::path::Path;

/// The authorities in a PEM file that the setting `key` names, or those of the system. What cannot be used is left out with a
/// line in the log: without any, no certificate is accepted. Reads files.
pub(crate) fn trusted(file: Option<&Path>, key: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let (found, faults) = match file {
        Some(path) => from_file(path),
        None => {
            let loaded = rustls_native_certs::load_native_certs();
            (loaded.certs, loaded.errors.iter().map(ToString::to_string).collect())
        }
    };
    for fault in faults {
        tracing::error!(fault, "trusted certificates cannot be read: see {key}");
    }
    let (added, ignored) = roots.add_parsable_certificates(found);
    if added == 0 {
        tracing::error!(
            ignored,
            "there is no trusted certificate, so none is accepted where certificates are verified: set {key} to a file in PEM"
        );
    }
    roots
}

fn from_file(path: &Path) -> (Vec<CertificateDer<'static>>, Vec<String>) {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(found) => (found, Vec::new()),
        Err(error) => (Vec::new(), vec![format!("{}: {error}", path.display())]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_testkit::TempDir;
    use milecastle_testkit::tls::Authority;

    #[test]
    fn files_are_read_and_bad_ones_give_nothing() {
        let dir = TempDir::new();
        let two = [Authority::new("one").pem(), Authority::new("two").pem()].concat();
        assert_eq!(trusted(Some(&dir.write("two.pem", two)), "k").len(), 2);
        assert_eq!(trusted(Some(&dir.write("none.pem", "text")), "k").len(), 0);
        assert_eq!(trusted(Some(&dir.path().join("missing.pem")), "k").len(), 0);
    }
}
