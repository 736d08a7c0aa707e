//! OCSP messages in DER (RFC 6960 §4): the request for one certificate, and what of a response counts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::asn1_rs::{Any, Class, FromDer as _, GeneralizedTime, Tag, ToDer as _};

/// 1.3.14.3.2.26.
const SHA_1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];
/// 1.3.6.1.5.5.7.48.1.1, `id-pkix-ocsp-basic`.
const BASIC: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
/// `responseStatus` of a response that has one.
const SUCCESSFUL: &[u8] = &[0];

/// A certificate as responders know it: its issuer by hashes, and its number. SHA-1, which every responder knows (RFC 5019
/// §2.1.1), is a name here and proves nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CertId {
    pub(super) issuer_name_hash: Box<[u8]>,
    pub(super) issuer_key_hash: Box<[u8]>,
    /// The content of the number in DER.
    pub(super) serial: Box<[u8]>,
}

impl CertId {
    /// The request for its status. Without a nonce, as from every client: so may responders answer what they have signed before
    /// (RFC 5019 §4).
    pub(super) fn request(&self) -> Vec<u8> {
        let algorithm = sequence(&[value(Tag::Oid, SHA_1), value(Tag::Null, &[])]);
        let id = sequence(&[
            algorithm,
            value(Tag::OctetString, &self.issuer_name_hash),
            value(Tag::OctetString, &self.issuer_key_hash),
            value(Tag::Integer, &self.serial),
        ]);
        let (request, request_list) = (|id| sequence(&[id]), |request| sequence(&[request]));
        let to_be_signed = sequence(&[request_list(request(id))]);
        sequence(&[to_be_signed])
    }
}

fn value(tag: Tag, content: &[u8]) -> Vec<u8> {
    Any::from_tag_and_data(tag, content).to_der_vec().expect("writing to memory cannot fail")
}

fn sequence(members: &[Vec<u8>]) -> Vec<u8> {
    value(Tag::Sequence, &members.concat())
}

/// Why nothing can be read of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    /// Not as RFC 6960 has it, at this member.
    #[error("no OCSP response: its {0} is malformed")]
    Malformed(&'static str),
    /// The responder gives none; the number is its `responseStatus`.
    #[error("the responder refuses: {}", refusal(*.0))]
    Refused(u8),
}

fn refusal(status: u8) -> &'static str {
    match status {
        1 => "malformedRequest",
        2 => "internalError",
        3 => "tryLater",
        5 => "sigRequired",
        6 => "unauthorized (it does not know this certificate or its authority)",
        _ => "with a status that RFC 6960 does not have",
    }
}

/// A basic response (RFC 6960 §4.2.1). Nothing of it is verified.
#[derive(Debug)]
pub(super) struct Response<'a> {
    /// What the signature is over.
    pub(super) signed: &'a [u8],
    /// The content of the signature's AlgorithmIdentifier.
    pub(super) algorithm: &'a [u8],
    pub(super) signature: &'a [u8],
    /// Who has signed it, as it says.
    pub(super) responder: ResponderId<'a>,
    /// Certificates that come along.
    pub(super) certificates: Vec<&'a [u8]>,
    pub(super) answers: Vec<Answer<'a>>,
}

/// Who a response says has signed it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ResponderId<'a> {
    /// The subject of its certificate, in DER.
    Name(&'a [u8]),
    /// SHA-1 of its public key.
    Key(&'a [u8]),
}

/// What a response says of one certificate.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    hash: &'a [u8],
    issuer_name_hash: &'a [u8],
    issuer_key_hash: &'a [u8],
    serial: &'a [u8],
    pub(super) status: Status,
    pub(super) this_update: SystemTime,
    pub(super) next_update: Option<SystemTime>,
}

/// The status of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Good,
    Revoked,
    Unknown,
}

impl Answer<'_> {
    fn is_about(&self, id: &CertId) -> bool {
        self.hash == SHA_1
            && *self.issuer_name_hash == *id.issuer_name_hash
            && *self.issuer_key_hash == *id.issuer_key_hash
            && *self.serial == *id.serial
    }
}

impl<'a> Response<'a> {
    /// Reads an answer.
    pub(super) fn parse(der: &'a [u8]) -> Result<Self, Unreadable> {
        let mut outer = Reader(der);
        let mut whole = outer.within(Tag::Sequence, "frame")?;
        outer.end("end")?;
        let status = whole.expect(Tag::Enumerated, "status")?.content;
        if status != SUCCESSFUL {
            return Err(Unreadable::Refused(status.last().copied().unwrap_or(u8::MAX)));
        }
        let bytes = whole.tagged(0, "bytes")?.ok_or(Unreadable::Malformed("bytes"))?;
        let mut typed = Reader(bytes).within(Tag::Sequence, "bytes")?;
        if typed.expect(Tag::Oid, "type")?.content != BASIC {
            return Err(Unreadable::Malformed("type"));
        }
        let basic = typed.expect(Tag::OctetString, "basic response")?.content;
        let mut basic = Reader(basic).within(Tag::Sequence, "basic response")?;
        let data = basic.expect(Tag::Sequence, "data")?;
        let algorithm = basic.expect(Tag::Sequence, "algorithm")?.content;
        // A signature is whole bytes: no bit of the last one is unused.
        let signature = basic.expect(Tag::BitString, "signature")?.content.strip_prefix(&[0]);
        let signature = signature.ok_or(Unreadable::Malformed("signature"))?;
        let mut certificates = Vec::new();
        if let Some(list) = basic.tagged(0, "certificates")? {
            let mut list = Reader(list).within(Tag::Sequence, "certificates")?;
            while !list.is_empty() {
                certificates.push(list.expect(Tag::Sequence, "certificates")?.whole);
            }
        }
        let mut data_members = Reader(data.content);
        data_members.tagged(0, "version")?;
        let responder = match data_members.tagged(1, "responder")? {
            Some(name) => ResponderId::Name(name),
            None => {
                let key = data_members.tagged(2, "responder")?.ok_or(Unreadable::Malformed("responder"))?;
                ResponderId::Key(Reader(key).expect(Tag::OctetString, "responder")?.content)
            }
        };
        data_members.expect(Tag::GeneralizedTime, "time")?;
        let mut list = data_members.within(Tag::Sequence, "answers")?;
        let mut answers = Vec::new();
        while !list.is_empty() {
            answers.push(answer(list.within(Tag::Sequence, "answers")?)?);
        }
        Ok(Self { signed: data.whole, algorithm, signature, responder, certificates, answers })
    }

    /// What it says of a certificate.
    pub(super) fn about(&self, id: &CertId) -> Option<&Answer<'a>> {
        self.answers.iter().find(|answer| answer.is_about(id))
    }
}

fn answer(mut members: Reader<'_>) -> Result<Answer<'_>, Unreadable> {
    let mut id = members.within(Tag::Sequence, "certificate id")?;
    let hash = id.within(Tag::Sequence, "certificate id")?.expect(Tag::Oid, "certificate id")?.content;
    let issuer_name_hash = id.expect(Tag::OctetString, "certificate id")?.content;
    let issuer_key_hash = id.expect(Tag::OctetString, "certificate id")?.content;
    let serial = id.expect(Tag::Integer, "certificate id")?.content;
    let status = members.any("certificate status")?;
    let status = match (status.class, status.tag.0) {
        (Class::ContextSpecific, 0) => Status::Good,
        (Class::ContextSpecific, 1) => Status::Revoked,
        (Class::ContextSpecific, 2) => Status::Unknown,
        _ => return Err(Unreadable::Malformed("certificate status")),
    };
    let this_update = time(members.expect(Tag::GeneralizedTime, "thisUpdate")?.content, "thisUpdate")?;
    let next_update = members.tagged(0, "nextUpdate")?.map(|inner| {
        let inner = Reader(inner).expect(Tag::GeneralizedTime, "nextUpdate")?;
        time(inner.content, "nextUpdate")
    });
    Ok(Answer {
        hash,
        issuer_name_hash,
        issuer_key_hash,
        serial,
        status,
        this_update,
        next_update: next_update.transpose()?,
    })
}

fn time(text: &[u8], what: &'static str) -> Result<SystemTime, Unreadable> {
    let read = GeneralizedTime::from_bytes(text).and_then(|time| time.utc_datetime());
    let seconds = read.ok().and_then(|time| u64::try_from(time.unix_timestamp()).ok());
    seconds.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds))).ok_or(Unreadable::Malformed(what))
}

/// A value: what it is, with its head and without.
struct Value<'a> {
    class: Class,
    tag: Tag,
    whole: &'a [u8],
    content: &'a [u8],
}

/// Values that stand one behind the other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn end(&self, what: &'static str) -> Result<(), Unreadable> {
        if self.is_empty() { Ok(()) } else { Err(Unreadable::Malformed(what)) }
    }

    fn any(&mut self, what: &'static str) -> Result<Value<'a>, Unreadable> {
        let (rest, any) = Any::from_der(self.0).map_err(|_| Unreadable::Malformed(what))?;
        let (whole, _) = self.0.split_at(self.0.len() - rest.len());
        self.0 = rest;
        Ok(Value { class: any.class(), tag: any.tag(), whole, content: any.data })
    }

    /// The next value, which must be of this universal type.
    fn expect(&mut self, tag: Tag, what: &'static str) -> Result<Value<'a>, Unreadable> {
        let value = self.any(what)?;
        let fits = value.class == Class::Universal && value.tag == tag;
        if fits { Ok(value) } else { Err(Unreadable::Malformed(what)) }
    }

    /// The values within the next one, which must be of this universal type.
    fn within(&mut self, tag: Tag, what: &'static str) -> Result<Reader<'a>, Unreadable> {
        Ok(Reader(self.expect(tag, what)?.content))
    }

    /// The content of the next value if it is that of an explicit tag; else it stays where it is.
    fn tagged(&mut self, number: u32, what: &'static str) -> Result<Option<&'a [u8]>, Unreadable> {
        if self.is_empty() {
            return Ok(None);
        }
        let before = self.0;
        let value = self.any(what)?;
        if value.class == Class::ContextSpecific && value.tag.0 == number {
            return Ok(Some(value.content));
        }
        self.0 = before;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
        text.as_bytes().chunks(2).map(byte).collect()
    }

    /// The certificate that OpenSSL 3.0 asks for in the test below.
    fn id() -> CertId {
        CertId {
            issuer_name_hash: hex("11048cd20cb3592307d019fd0889562b62d36492").into(),
            issuer_key_hash: hex("1923d9464b8a52ac7fc0efee9a3b6634a7bd6aab").into(),
            serial: hex("697fbf9d9c060a3598c90b7be4a2dc6ce24eb367").into(),
        }
    }

    #[test]
    fn a_request_is_the_one_that_openssl_makes() {
        // openssl ocsp -issuer ca.pem -cert a.pem -no_nonce -reqout -
        let made = "305530533051304f304d300906052b0e03021a0500041411048cd20cb3592307d019fd0889562b62d3649204141923d9464b8a52ac7f\
                    c0efee9a3b6634a7bd6aab0214697fbf9d9c060a3598c90b7be4a2dc6ce24eb367";
        assert_eq!(id().request(), hex(&made.replace(char::is_whitespace, "")));
    }

    #[test]
    fn a_responder_may_refuse() {
        let parse = |text: &str| Response::parse(&hex(text)).map(drop);
        assert_eq!(parse("30030a0103"), Err(Unreadable::Refused(3)));
        assert_eq!(parse("30030a0106"), Err(Unreadable::Refused(6)));
        assert!(Unreadable::Refused(6).to_string().contains("unauthorized"));
        assert_eq!(parse("30030a0100"), Err(Unreadable::Malformed("bytes")), "successful, and nothing else");
    }

    #[test]
    fn what_is_cut_or_longer_is_refused_and_never_panics() {
        let whole = super::super::samples::GOOD;
        Response::parse(whole).unwrap();
        for end in 0..whole.len() {
            Response::parse(&whole[..end]).unwrap_err();
        }
        assert_eq!(Response::parse(&[whole, &[0]].concat()).map(drop), Err(Unreadable::Malformed("end")));
        for at in 0..whole.len() {
            let mut damaged = whole.to_vec();
            damaged[at] ^= 0xff;
            // Either it can be read, and its signature is wrong, or it cannot.
            drop(Response::parse(&damaged));
        }
    }
}
