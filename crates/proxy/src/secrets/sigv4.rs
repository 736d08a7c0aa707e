//! AWS Signature Version 4, in the `Authorization` header (AWS, "Signature Version 4 for API requests").

use aws_lc_rs::{digest, hmac};
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use milecastle_plugin_api::{hex, timestamp};
use milecastle_telemetry::Secret;
use std::collections::BTreeMap;
use std::time::SystemTime;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const SESSION: HeaderName = HeaderName::from_static("x-amz-security-token");

/// Signs requests to a service. All that it sends, which is all but the secret key, is ASCII without spaces.
pub(super) struct Signer {
    pub(super) access_key_id: String,
    pub(super) secret_access_key: Secret<String>,
    pub(super) session_token: Option<Secret<String>>,
    pub(super) region: String,
    pub(super) service: &'static str,
}

impl Signer {
    /// Signs a request without a query, all of whose headers are in `headers`, `Host` included, and adds what proves it. `path` has
    /// nothing that is to be encoded.
    pub(super) fn sign(&self, method: &Method, path: &str, headers: &mut HeaderMap, body: &[u8], at: SystemTime) {
        let value = |text: &str| HeaderValue::from_str(text).expect("checked when the object was read");
        let time = basic(at);
        headers.insert(DATE, value(&time));
        if let Some(token) = &self.session_token {
            let mut token = value(token.reveal());
            token.set_sensitive(true);
            headers.insert(SESSION, token);
        }
        // By name. None of them is there twice.
        let fields: BTreeMap<&str, &[u8]> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes().trim_ascii())).collect();
        let signed = fields.keys().copied().collect::<Vec<_>>().join(";");
        let mut canonical = format!("{method}\n{path}\n\n").into_bytes();
        for (name, value) in fields {
            canonical.extend_from_slice(name.as_bytes());
            canonical.push(b':');
            canonical.extend_from_slice(value);
            canonical.push(b'\n');
        }
        canonical.extend_from_slice(format!("\n{signed}\n{}", sha256(body)).as_bytes());

        let day = time.split_once('T').map_or(&*time, |(day, _)| day);
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let text = format!("{ALGORITHM}\n{time}\n{scope}\n{}", sha256(&canonical));
        let first = format!("AWS4{}", self.secret_access_key.reveal());
        let key = hmac::Key::new(hmac::HMAC_SHA256, first.as_bytes());
        let key = scope
            .split('/')
            .fold(key, |key, part| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref()));
        let signature = hex(hmac::sign(&key, text.as_bytes()).as_ref());
        let id = &self.access_key_id;
        let proof = format!("{ALGORITHM} Credential={id}/{scope}, SignedHeaders={signed}, Signature={signature}");
        let mut proof = value(&proof);
        proof.set_sensitive(true);
        headers.insert(AUTHORIZATION, proof);
    }
}

/// `20150830T123600Z`.
fn basic(at: SystemTime) -> String {
    let written = timestamp(at);
    let seconds = written.split_once('.').map_or(&*written, |(seconds, _)| seconds);
    format!("{}Z", seconds.replace(['-', ':'], ""))
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
    use std::time::{Duration, UNIX_EPOCH};

    /// Vectors of AWS' test suite for Signature Version 4, those without a query and with paths that need no encoding: the signed
    /// headers and the signature of `header-signed-request.txt`, in the folders of the same names under
    /// `tests/aws-signing-test-suite/v4` of <https://github.com/awslabs/aws-c-auth>. Credentials, region, service and time are those
    /// of its `context.json`.
    fn check(
        name: &str,
        request: (Method, &str, &str),
        headers: &[(HeaderName, &str)],
        token: Option<&str>,
        expected: [&str; 2],
    ) {
        let (method, path, body) = request;
        let signer = Signer {
            access_key_id: "AKIDEXAMPLE".into(),
            secret_access_key: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into()),
            session_token: token.map(|token| Secret::new(token.to_owned())),
            region: "us-east-1".into(),
            service: "service",
        };
        let mut all = HeaderMap::from_iter([(HOST, HeaderValue::from_static("example.amazonaws.com"))]);
        all.extend(headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())));
        let at = UNIX_EPOCH + Duration::from_secs(1_440_938_160);
        signer.sign(&method, path, &mut all, body.as_bytes(), at);
        assert_eq!(all[DATE], "20150830T123600Z", "{name}");
        assert_eq!(all.get(SESSION).map(|token| token.to_str().unwrap()), token, "{name}");
        let [signed, signature] = expected;
        let credential = "AKIDEXAMPLE/20150830/us-east-1/service/aws4_request";
        let proof = format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={signed}, Signature={signature}");
        assert_eq!(all[AUTHORIZATION], proof, "{name}");
    }

    #[test]
    fn aws_signatures_of_the_published_test_suite() {
        let plain = "host;x-amz-date";
        let signature = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
        check("get-vanilla", (Method::GET, "/", ""), &[], None, [plain, signature]);
        let signature = "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b";
        check("post-vanilla", (Method::POST, "/", ""), &[], None, [plain, signature]);
        let signature = "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f";
        let path = "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        check("get-unreserved", (Method::GET, path, ""), &[], None, [plain, signature]);
    }

    #[test]
    fn aws_signatures_with_a_session_token() {
        let signed = "host;x-amz-date;x-amz-security-token";
        let token = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267";
        let signature = "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8";
        check("get-vanilla-with-session-token", (Method::GET, "/", ""), &[], Some(token), [signed, signature]);
        let token = concat!(
            "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7",
            "mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d",
            "+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==",
        );
        let signature = "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead";
        check("post-sts-header-before", (Method::POST, "/", ""), &[], Some(token), [signed, signature]);
    }

    #[test]
    fn aws_signatures_of_a_body_and_its_headers() {
        let headers = [
            (CONTENT_TYPE, "application/x-www-form-urlencoded"),
            (CONTENT_LENGTH, "13"),
            (
                HeaderName::from_static("x-amz-content-sha256"),
                "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e",
            ),
        ];
        let signed = "content-length;content-type;host;x-amz-content-sha256;x-amz-date";
        let signature = "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b";
        let request = (Method::POST, "/", "Param1=value1");
        check("post-x-www-form-urlencoded", request, &headers, None, [signed, signature]);
    }
}
