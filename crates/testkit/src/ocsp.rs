//! An OCSP responder: an HTTP server of our own, which counts questions and can be made to fail, in front of the real
//! `openssl ocsp`, which reads them and signs the answers.

use crate::TempDir;
use crate::registry::server::{Asked, Body, Protocol, Server, whole};
use crate::tls::{Authority, Identity};
use http::Response;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::pin::Pin;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

/// What a responder says of a certificate that it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// `good`.
    Good,
    /// `revoked`.
    Revoked,
}

/// The responder of one authority.
pub struct Responder {
    files: TempDir,
    says: Mutex<Says>,
}

struct Says {
    /// By the number as OpenSSL writes it.
    known: BTreeMap<String, Standing>,
    /// Options that say how long a response holds.
    lifetime: Vec<String>,
    /// The last response is handed out again.
    repeats: bool,
}

impl Responder {
    /// Starts one that knows no certificate, whose responses the authority itself signs, to hold for a day.
    ///
    /// # Panics
    /// If it cannot listen, as the other functions here if OpenSSL is missing.
    pub fn start(authority: &Authority) -> Server<Self> {
        let says = Says { known: BTreeMap::new(), lifetime: vec!["-ndays".into(), "1".into()], repeats: false };
        let responder = Self { files: TempDir::new(), says: Mutex::new(says) };
        responder.files.write("ca.pem", authority.pem());
        responder.sign_with(&authority.identity());
        Server::run(responder)
    }

    /// Says how a certificate stands from now on.
    pub fn set(&self, certificate: &Identity, standing: Standing) {
        self.says().known.insert(serial(certificate), standing);
    }

    /// Knows a certificate no more.
    pub fn forget(&self, certificate: &Identity) {
        self.says().known.remove(&serial(certificate));
    }

    /// Signs with another key from now on.
    pub fn sign_with(&self, signer: &Identity) {
        let _whole = self.says();
        self.files.write("signer.pem", &signer.cert);
        self.files.write("signer.key", &signer.key);
    }

    /// How long responses hold from now on: options of `openssl ocsp` such as `-nmin 5`; without any they do not say.
    pub fn holds(&self, lifetime: &[&str]) {
        self.says().lifetime = lifetime.iter().map(|&option| option.to_owned()).collect();
    }

    /// Whether it hands out its last response from now on, however old that is.
    pub fn repeats(&self, repeats: bool) {
        self.says().repeats = repeats;
    }

    fn says(&self) -> std::sync::MutexGuard<'_, Says> {
        self.says.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The response to a question.
    fn respond(&self, question: &[u8]) -> Vec<u8> {
        let says = self.says();
        let mut index = String::new();
        for (serial, standing) in &says.known {
            let (letter, revoked) = match standing {
                Standing::Good => ('V', ""),
                Standing::Revoked => ('R', "260101000000Z"),
            };
            writeln!(index, "{letter}\t491231235959Z\t{revoked}\t{serial}\tunknown\t/CN={serial}")
                .expect("a string takes all");
        }
        let path = |name: &str| self.files.path().join(name);
        if says.repeats {
            return std::fs::read(path("response.der")).expect("there was a response before");
        }
        self.files.write("index.txt", index);
        self.files.write("question.der", question);
        let mut openssl = Command::new("openssl");
        openssl.arg("ocsp").arg("-index").arg(path("index.txt")).arg("-CA").arg(path("ca.pem"));
        openssl.arg("-rsigner").arg(path("signer.pem")).arg("-rkey").arg(path("signer.key"));
        openssl.arg("-reqin").arg(path("question.der")).arg("-respout").arg(path("response.der")).args(&says.lifetime);
        let output = openssl.output().expect("openssl is installed");
        assert!(output.status.success(), "openssl ocsp: {}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(path("response.der")).expect("openssl has written the response")
    }
}

impl Protocol for Responder {
    fn answer(self: Arc<Self>, asked: Asked) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        let is_question = asked.method == "POST" && asked.header("content-type") == "application/ocsp-request";
        let response = if is_question { whole(200, self.respond(&asked.body)) } else { whole(400, "") };
        Box::pin(std::future::ready(response))
    }
}

/// The number of a certificate in hexadecimal digits, without leading zeros.
fn serial(certificate: &Identity) -> String {
    let der = CertificateDer::from_pem_slice(certificate.cert.as_bytes()).expect("PEM");
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).expect("a certificate");
    let digits = parsed.raw_serial().iter().skip_while(|byte| **byte == 0).map(|byte| format!("{byte:02X}"));
    digits.collect()
}
