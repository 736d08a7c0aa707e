use rcgen::PKCS_ECDSA_P384_SHA384;
use x509_parser::prelude::GeneralName;

use super::*;
use crate::{KeyRequest, NodeCertificate};

const HOUR: Duration = Duration::from_secs(3600);

/// A moment in 2026, in whole seconds.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

fn identity() -> NodeIdentity {
    NodeIdentity::new("prod", "n1").unwrap()
}

#[test]
fn a_ca_survives_its_pem() {
    let ca = Ca::generate(now()).unwrap();
    let back = Ca::from_pem(&ca.certificate_pem(), &ca.key_pem()).unwrap();
    assert_eq!(back.fingerprint(), ca.fingerprint());
    assert_eq!(back.not_after(), now() + CA_LIFETIME);
    assert_eq!(back.fingerprint(), Fingerprint::of(ca.certificate()));

    let request = KeyRequest::generate().unwrap();
    let issued = back.sign_node(request.csr(), &identity(), now(), HOUR).unwrap();
    let keys = request.accept(&issued.chain, ca.certificate(), &ca.fingerprint(), now()).unwrap();
    assert_eq!(keys.certificate().identity, identity());
}

#[test]
fn parts_of_two_cas_make_none() {
    let (one, other) = (Ca::generate(now()).unwrap(), Ca::generate(now()).unwrap());
    assert!(matches!(Ca::from_pem(&one.certificate_pem(), &other.key_pem()), Err(PkiError::NotACa(_))));
    assert!(matches!(Ca::from_pem(&one.key_pem(), &one.key_pem()), Err(PkiError::NotACa(_))));
    assert!(matches!(Ca::from_pem(&one.certificate_pem(), "nothing"), Err(PkiError::NotACa(_))));
    let server = one.issue_server(&[], &[], now(), HOUR).unwrap();
    let leaf = pem::encode(&pem::Pem::new("CERTIFICATE", server.chain[0].as_ref()));
    let key = pem::encode(&pem::Pem::new("PRIVATE KEY", server.key.secret_der()));
    assert!(matches!(Ca::from_pem(&leaf, &key), Err(PkiError::NotACa(_))));
}

#[test]
fn a_node_certificate_says_what_the_ca_decided() {
    let ca = Ca::generate(now()).unwrap();
    // A request that asks for more than it should get.
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut wishes = CertificateParams::new(vec![CLUSTER_NAME.to_owned()]).unwrap();
    wishes.distinguished_name = common_name("root");
    wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wishes.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let request = wishes.serialize_request(&key).unwrap();

    let issued = ca.sign_node(request.der(), &identity(), now(), HOUR).unwrap();
    assert_eq!(issued.not_after, now() + HOUR);
    let read = NodeCertificate::of(&issued.chain[0]).unwrap();
    let (not_before, not_after) = (now() - BACKDATE, now() + HOUR);
    assert_eq!(read, NodeCertificate { identity: identity(), not_before, not_after });

    let certificate = parse(&issued.chain[0]).unwrap();
    assert!(!certificate.is_ca());
    assert_eq!(certificate.raw_serial_as_string().replace(':', ""), issued.serial);
    assert_eq!(certificate.subject().to_string(), "CN=n1");
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);
    assert_eq!(certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
    assert_eq!(certificate.public_key().subject_public_key.data, key.public_key_raw());
}

#[test]
fn requests_that_prove_nothing_are_refused() {
    let ca = Ca::generate(now()).unwrap();
    let sign = |csr: &[u8]| ca.sign_node(csr, &identity(), now(), HOUR);
    let request = KeyRequest::generate().unwrap();
    assert!(sign(request.csr()).is_ok());

    let mut forged = request.csr().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    assert!(matches!(sign(&forged), Err(PkiError::Request(_))));
    assert!(matches!(sign(b"noise"), Err(PkiError::Request(_))));

    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let other_kind = CertificateParams::default().serialize_request(&key).unwrap();
    assert!(matches!(sign(other_kind.der()), Err(PkiError::KeyKind)));
}

#[test]
fn no_certificate_outlasts_the_ca() {
    let ca = Ca::generate(now()).unwrap();
    let request = KeyRequest::generate().unwrap();
    let sign = |now, lifetime| ca.sign_node(request.csr(), &identity(), now, lifetime);
    assert_eq!(sign(ca.not_after() - HOUR, HOUR * 2).unwrap().not_after, ca.not_after());
    assert_eq!(sign(now(), Duration::MAX).unwrap().not_after, ca.not_after());
    assert!(matches!(sign(ca.not_after(), HOUR), Err(PkiError::NoTime)));
    assert!(matches!(sign(now(), Duration::ZERO), Err(PkiError::NoTime)));
}

#[test]
fn renewal_of_short_lives_is_due_after_they_begin() {
    let ca = Ca::generate(now()).unwrap();
    let request = KeyRequest::generate().unwrap();
    let issued = ca.sign_node(request.csr(), &identity(), now(), Duration::from_secs(60)).unwrap();
    let renew_at = NodeCertificate::of(&issued.chain[0]).unwrap().renew_at();
    assert!(renew_at > now() + Duration::from_secs(30) && renew_at < now() + Duration::from_secs(41));
}

#[test]
fn a_server_certificate_carries_the_cluster_name_and_the_advertised_ones() {
    let ca = Ca::generate(now()).unwrap();
    let names = ["dp.example.com".to_owned()];
    let server = ca.issue_server(&names, &[IpAddr::from([10, 0, 0, 1])], now(), HOUR).unwrap();
    assert_eq!(server.chain[1], *ca.certificate());
    let certificate = parse(&server.chain[0]).unwrap();
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    let expected = [
        GeneralName::DNSName(CLUSTER_NAME),
        GeneralName::DNSName("dp.example.com"),
        GeneralName::IPAddress(&[10, 0, 0, 1]),
    ];
    assert_eq!(names.as_slice(), expected);
    assert!(NodeCertificate::of(&server.chain[0]).is_err());
    for bad in ["", "a b", "10.0.0.1:17900"] {
        let names = [bad.to_owned()];
        assert!(matches!(ca.issue_server(&names, &[], now(), HOUR), Err(PkiError::Name(_))), "{bad}");
    }
}

#[test]
fn keys_do_not_show() {
    let ca = Ca::generate(now()).unwrap();
    let server = ca.issue_server(&[], &[], now(), HOUR).unwrap();
    let shown = format!("{ca:?} {server:?} {:?}", KeyRequest::generate().unwrap());
    assert!(!shown.contains("PRIVATE") && shown.len() < 400, "{shown}");
}
