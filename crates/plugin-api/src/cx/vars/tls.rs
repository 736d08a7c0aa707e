//! Table E: the client's side of TLS. Certificates are taken apart only when a variable asks for it.

use super::time::Civil;
use crate::cx::TlsInfo;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use milecastle_matching::Var;
use std::fmt::Write;
use std::time::SystemTime;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate, X509Name};
use x509_parser::x509::AttributeTypeAndValue;

pub(crate) fn var<'a>(tls: &'a TlsInfo, name: &str) -> Option<Var<'a>> {
    let text = match name {
        "ssl_protocol" => tls.protocol,
        "ssl_cipher" => &tls.cipher,
        "ssl_curve" => tls.curve?,
        "ssl_server_name" => tls.sni.as_deref()?,
        "ssl_session_reused" => {
            if tls.resumed {
                "r"
            } else {
                "."
            }
        }
        "ssl_alpn_protocol" => tls.alpn?,
        "ssl_client_verify" => &tls.client_verify,
        _ => return client_certificate(tls, name).map(Var::from),
    };
    Some(Var::from(text))
}

fn client_certificate(tls: &TlsInfo, name: &str) -> Option<String> {
    let der = tls.client_certificate.as_deref()?;
    match name {
        "ssl_client_raw_cert" => return Some(pem(der)),
        "ssl_client_cert" => return Some(pem(der).trim_end().replace('\n', "\n\t")),
        "ssl_client_escaped_cert" => return Some(escape(&pem(der))),
        "ssl_client_fingerprint" => {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, der);
            return Some(hex(digest.as_ref()));
        }
        _ => {}
    }
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let validity = certificate.validity();
    Some(match name {
        "ssl_client_serial" => hex(certificate.raw_serial()).to_ascii_uppercase(),
        "ssl_client_s_dn" => distinguished_name(certificate.subject())?,
        "ssl_client_i_dn" => distinguished_name(certificate.issuer())?,
        "ssl_client_v_start" => moment(validity.not_before),
        "ssl_client_v_end" => moment(validity.not_after),
        "ssl_client_v_remain" => {
            let now = i64::try_from(super::time::since_epoch(SystemTime::now()).as_secs()).ok()?;
            ((validity.not_after.timestamp() - now).max(0) / 86_400).to_string()
        }
        _ => return None,
    })
}

fn pem(der: &[u8]) -> String {
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let body = STANDARD.encode(der);
    for line in body.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

/// Bytes in hexadecimal: two lower-case digits for each.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

/// Percent-encodes all but the unreserved characters of RFC 3986 §2.3.
fn escape(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a string cannot fail");
        }
        out
    })
}

/// `Nov 22 17:05:09 2026 GMT`.
fn moment(time: ASN1Time) -> String {
    let at = Civil::of(time.timestamp());
    let Civil { year, day, hour, minute, second, .. } = at;
    format!("{} {day:>2} {hour:02}:{minute:02}:{second:02} {year} GMT", at.month_name())
}

/// The string form of RFC 2253: last part first.
fn distinguished_name(name: &X509Name<'_>) -> Option<String> {
    let parts: Vec<_> = name.iter().collect();
    let mut written = Vec::with_capacity(parts.len());
    for part in parts.into_iter().rev() {
        let attributes: Option<Vec<String>> = part.iter().map(attribute).collect();
        written.push(attributes?.join("+"));
    }
    Some(written.join(","))
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let kind = attribute.attr_type().to_id_string();
    let kind = match kind.as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "1.2.840.113549.1.9.1" => "emailAddress",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        other => other,
    };
    let value = attribute.as_str().ok()?;
    let last = value.chars().count().saturating_sub(1);
    let mut text = format!("{kind}=");
    for (at, character) in value.chars().enumerate() {
        let special = matches!(character, ',' | '+' | '"' | '\\' | '<' | '>' | ';');
        if special || (at == 0 && matches!(character, '#' | ' ')) || (at == last && character == ' ') {
            text.push('\\');
        }
        text.push(character);
    }
    Some(text)
}
