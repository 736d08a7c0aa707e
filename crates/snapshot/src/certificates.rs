//! Certificates that clients are served, by server name (`docs/spec/tls.md` §2–§4).

use crate::snapshot::Map;
use milecastle_matching::{Flags, Pattern, PatternBudget};
use milecastle_model::{Fault, OcspStapling, Ssl, TlsVersion, is_reference};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;

/// What is asked of a client's certificate (`docs/spec/tls.md` §6).
#[derive(Debug)]
pub struct ClientAuth {
    /// Certificates of the authorities, as DER.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Longest chain.
    pub depth: u32,
    /// Paths that need no certificate; if there are any, the handshake succeeds without one.
    pub skip_uri: Vec<Pattern>,
}

/// An ssl object of type `server`, compiled.
#[derive(Debug)]
pub struct CompiledSsl {
    /// Id of the object.
    pub id: Arc<str>,
    /// The main pair, then the others.
    pub keys: Vec<Arc<CertifiedKey>>,
    /// Mutual TLS.
    pub client: Option<ClientAuth>,
    /// Versions that replace the listener's. TLS 1.1 may be among them; it is never offered.
    pub versions: Option<Vec<TlsVersion>>,
    /// OCSP responses are stapled to its certificates; `None`: they are not.
    pub stapling: Option<OcspStapling>,
    /// Names, lower-case without trailing dot.
    pub(crate) names: Vec<Arc<str>>,
}

/// Instead of a reader's words, which may hold a part of what it read.
pub(crate) const REFERRED: &str = "what a reference stands for is not the PEM text that is expected";

pub(crate) const MISMATCHED: &str = "what references stand for is a certificate and the key of another one";

/// A certificate and its key, both as PEM text.
pub(crate) fn certified_key(cert: &str, key: &str) -> Result<Arc<CertifiedKey>, String> {
    let chain = CertificateDer::pem_slice_iter(cert.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("failed to parse cert: {error}"))?;
    if chain.is_empty() {
        return Err("failed to parse cert: no certificate in the PEM text".into());
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| format!("failed to parse key: {error}"))?;
    let key = any_supported_type(&key).map_err(|error| format!("failed to parse key: {error}"))?;
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

/// Whether the key is that of the certificate.
pub(crate) fn match_each_other(pair: &CertifiedKey) -> bool {
    // Keys that do not tell their public half may well fit.
    matches!(pair.keys_match(), Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)))
}

/// Compiles an ssl object of type `server`.
///
/// `resolve` gives the text itself, or what a reference stands for. A pair with a reference that leads nowhere is left out:
/// that is no fault of the object, and the control plane cannot see the nodes' secrets. An authority that leads nowhere
/// admits no client. `writing` is the budget of an object that is being written.
pub(crate) fn compile(
    id: &Arc<str>,
    ssl: &Ssl,
    resolve: &dyn Fn(&str) -> Option<String>,
    writing: Option<&PatternBudget>,
) -> Result<CompiledSsl, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut keys = Vec::new();
    for (index, (cert, key)) in ssl.pairs().enumerate() {
        let referred = is_reference(cert) || is_reference(key.expose());
        let (Some(cert), Some(key)) = (resolve(cert), resolve(key.expose())) else { continue };
        let pair = match certified_key(&cert, &key) {
            Err(_) if referred => Err(REFERRED.to_owned()),
            // One of them may have been renewed before the other.
            Ok(pair) if referred && !match_each_other(&pair) => Err(MISMATCHED.to_owned()),
            pair => pair,
        };
        match pair {
            Ok(pair) => keys.push(pair),
            Err(reason) if index == 0 => faults.push(Fault::rule("/cert", reason)),
            Err(reason) => faults.push(Fault::rule(
                format!("/certs/{}", index - 1),
                format!("failed to handle cert-key pair[{index}]: {reason}"),
            )),
        }
    }
    let client = ssl.client.as_ref().map(|client| {
        let authorities = authorities(&client.ca, resolve)?;
        let skip_uri = client
            .skip_mtls_uri_regex
            .iter()
            .enumerate()
            .map(|(n, regex)| {
                let pattern = Pattern::compiled(regex, Flags::default(), writing);
                pattern.map_err(|error| Fault::rule(format!("/client/skip_mtls_uri_regex/{n}"), error.to_string()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(ClientAuth { authorities, depth: client.depth, skip_uri })
    });
    let client = match client.transpose() {
        Ok(client) => client,
        Err(fault) => {
            faults.push(fault);
            None
        }
    };
    if !faults.is_empty() {
        return Err(faults);
    }
    let names = ssl.server_names().map(Into::into).collect();
    let stapling = ssl.ocsp_stapling.clone().filter(|stapling| stapling.enabled);
    Ok(CompiledSsl { id: id.clone(), keys, client, versions: ssl.ssl_protocols.clone(), stapling, names })
}

/// The authorities of a text in PEM, of which there has to be one; none of a reference that leads nowhere.
fn authorities(ca: &str, resolve: &dyn Fn(&str) -> Option<String>) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let Some(text) = resolve(ca) else { return Ok(Vec::new()) };
    let read = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    let reason = match read {
        Ok(authorities) if !authorities.is_empty() => return Ok(authorities),
        _ if is_reference(ca) => REFERRED.to_owned(),
        Ok(_) => "no certificate in the PEM text".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Fault::rule("/client/ca", format!("failed to validate client_cert: {reason}")))
}

/// The ssl objects of type `server` that ask for OCSP stapling. Cloning is cheap.
#[derive(Clone, Default)]
pub struct StapledSsls(Map<Arc<CompiledSsl>>);

impl StapledSsls {
    /// Takes note of the present form of an object.
    pub(crate) fn set(&mut self, id: &Arc<str>, form: Option<&Arc<CompiledSsl>>) {
        match form.filter(|ssl| ssl.stapling.is_some()) {
            Some(ssl) => drop(self.0.insert(id.clone(), ssl.clone())),
            // Untouched where there is nothing to take away, so that it is still the same.
            None if self.0.contains_key(&**id) => drop(self.0.remove(&**id)),
            None => {}
        }
    }

    /// Whether nothing has changed from one to the other.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<CompiledSsl>> {
        self.0.values()
    }
}

/// Server names to certificates. Where two objects claim one name the smaller id wins.
#[derive(Clone, Default)]
pub(crate) struct Certificates {
    by_name: Map<Vec<Arc<CompiledSsl>>>,
}

impl Certificates {
    pub(crate) fn insert(&mut self, ssl: &Arc<CompiledSsl>) {
        for name in &ssl.names {
            let mut claims = self.by_name.get(&**name).cloned().unwrap_or_default();
            claims.retain(|other| other.id != ssl.id);
            claims.push(ssl.clone());
            claims.sort_by(|a, b| a.id.cmp(&b.id));
            self.by_name.insert(name.clone(), claims);
        }
    }

    pub(crate) fn remove(&mut self, ssl: &CompiledSsl) {
        for name in &ssl.names {
            let mut claims = self.by_name.get(&**name).cloned().unwrap_or_default();
            claims.retain(|other| other.id != ssl.id);
            if claims.is_empty() {
                self.by_name.remove(&**name);
            } else {
                self.by_name.insert(name.clone(), claims);
            }
        }
    }

    /// Exact name, then the most specific wildcard, which stands for exactly one label, then `*`.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<CompiledSsl>> {
        let name = name.trim_end_matches('.');
        let lower;
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = name.to_ascii_lowercase();
            &lower
        } else {
            name
        };
        if let Some(found) = self.claim(name) {
            return Some(found);
        }
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(found) = self.claim(&format!("*.{parent}")) {
                // The most specific wildcard decides; it does not fall back to a wider one.
                return (rest.len() == name.len()).then_some(found);
            }
            rest = parent;
        }
        self.claim("*")
    }

    fn claim(&self, name: &str) -> Option<&Arc<CompiledSsl>> {
        self.by_name.get(name)?.first()
    }
}
