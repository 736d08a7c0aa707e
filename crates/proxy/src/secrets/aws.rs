//! The manager `aws`: AWS Secrets Manager, `GetSecretValue`.
//!
//! Names of secrets may have `/` in them, so the longest name is asked for first. Where there is none of that name its last part moves
//! to the member of the secret, which is a JSON object then; without a member it is the secret as a whole.

use super::fields::Fields;
use super::http::Client;
use super::manager::part;
use super::sigv4::Signer;
use super::trouble::{Found, Trouble};
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use milecastle_export::Target;
use milecastle_telemetry::Secret;
use serde_json::{Value, json};
use std::time::SystemTime;

const OPERATION: HeaderName = HeaderName::from_static("x-amz-target");
const DEFAULT_REGION: &str = "us-east-1";

/// Asks Secrets Manager.
pub(super) struct Aws {
    target: Target,
    signer: Signer,
}

/// What is said of a name.
enum Answer {
    /// The secret of that name.
    Secret(String),
    /// There is none.
    NotFound,
    /// Who asks may not know whether there is one.
    Denied(Trouble),
}

impl Aws {
    pub(super) fn new(fields: &Fields<'_>) -> Result<Self, String> {
        let key = |name, text: String| {
            let sendable = text.bytes().all(|byte| byte.is_ascii_graphic());
            if sendable { Ok(text) } else { Err(fields.fault(name, "must be ASCII without spaces")) }
        };
        let region = fields.optional("region")?.unwrap_or_else(|| DEFAULT_REGION.to_owned());
        if region.is_empty() || !region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(fields.fault("region", "must be the name of a region, such as `eu-west-1`"));
        }
        let endpoint = fields.optional("endpoint_url")?;
        let endpoint = endpoint.unwrap_or_else(|| format!("https://secretsmanager.{region}.amazonaws.com"));
        let mut target = fields.url("endpoint_url", &endpoint, true)?;
        if target.path.is_empty() {
            target.path.push('/');
        }
        let session_token =
            fields.optional("session_token")?.map(|token| key("session_token", token)).transpose()?.map(Secret::new);
        let signer = Signer {
            access_key_id: key("access_key_id", fields.text("access_key_id")?)?,
            secret_access_key: Secret::new(fields.text("secret_access_key")?),
            session_token,
            region,
            service: "secretsmanager",
        };
        Ok(Self { target, signer })
    }

    /// What stands at a path.
    pub(super) async fn find(&self, client: &Client, path: &str) -> Found {
        if path.is_empty() {
            return Err(Trouble::Failed("a reference to aws ends with the name of a secret".into()));
        }
        let (mut name, mut field) = (path, None);
        // A policy that allows some secrets alone hides that there are no others.
        let mut absent = Trouble::nothing();
        loop {
            let answer = if may_be_name(name) { self.ask(client, name).await? } else { Answer::NotFound };
            match answer {
                Answer::Secret(secret) => return part(&secret, field).map_err(|_| absent),
                Answer::NotFound => {}
                Answer::Denied(error) => absent = error,
            }
            match name.rsplit_once('/') {
                Some((shorter, _)) if !shorter.is_empty() => {
                    name = shorter;
                    field = path.get(shorter.len() + 1..);
                }
                _ => return Err(absent),
            }
        }
    }

    async fn ask(&self, client: &Client, name: &str) -> Result<Answer, Trouble> {
        let body = json!({ "SecretId": name, "VersionStage": "AWSCURRENT" }).to_string();
        let mut headers = HeaderMap::from_iter([
            (HOST, self.target.host().clone()),
            (CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.1")),
            (OPERATION, HeaderValue::from_static("secretsmanager.GetSecretValue")),
        ]);
        self.signer.sign(&Method::POST, &self.target.path, &mut headers, body.as_bytes(), SystemTime::now());
        let answer = client.ask(self.target.clone(), Method::POST, headers, body).await?;
        let said = answer.json();
        if answer.status == 200 {
            let said = said.ok_or_else(|| answer.malformed())?;
            return match (said.get("SecretString").and_then(Value::as_str), said.get("SecretBinary")) {
                (Some(secret), _) => Ok(Answer::Secret(secret.to_owned())),
                // There is no text that a reference could stand for.
                (None, Some(_)) => Err(Trouble::nothing()),
                (None, None) => Err(answer.malformed()),
            };
        }
        let code = said.as_ref().and_then(|said| said.get("__type")?.as_str());
        // The name of the service may stand before it.
        match code.map(|code| code.rsplit_once('#').map_or(code, |(_, code)| code)) {
            Some("ResourceNotFoundException") => Ok(Answer::NotFound),
            // The secret is marked for deletion; the other reasons for this error are those of other operations.
            Some("InvalidRequestException") => Err(Trouble::nothing()),
            code @ Some("AccessDeniedException") => Ok(Answer::Denied(answer.refused(code))),
            code => Err(answer.refused(code)),
        }
    }
}

/// Whether a secret may have this name, or this ARN: AWS answers others with an error of another kind.
fn may_be_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_+=.@-:".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aws_regions_and_endpoints() {
        let check = |more: Value, expected: Result<(&str, &str), &str>| {
            let mut body = json!({ "access_key_id": "AKID", "secret_access_key": "s" });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let aws = Aws::new(&Fields::of(&body));
            let shown = aws.map(|aws| (format!("{}{}", aws.target, aws.target.path), aws.signer.region));
            assert_eq!(shown, expected.map(|(a, b)| (a.to_owned(), b.to_owned())).map_err(str::to_owned), "{more}");
        };
        check(json!({}), Ok(("https://secretsmanager.us-east-1.amazonaws.com:443/", "us-east-1")));
        check(
            json!({ "region": "eu-west-1" }),
            Ok(("https://secretsmanager.eu-west-1.amazonaws.com:443/", "eu-west-1")),
        );
        check(json!({ "endpoint_url": "http://localhost:4566" }), Ok(("http://localhost:4566/", "us-east-1")));
        check(json!({ "endpoint_url": "http://127.0.0.1:1/a/b/" }), Ok(("http://127.0.0.1:1/a/b", "us-east-1")));
        check(json!({ "endpoint_url": "http://user:hush@a.test:1" }), Ok(("http://a.test:1/", "us-east-1")));
        let url = "`endpoint_url` must be of the form `https://host[:port][/path]`, or the same with `http`, without login, query and fragment";
        for wrong in
            ["localhost", "ftp://a", "http://", "http://a/?b", "http://a/%20", "http://a/../b", "http://a/b//c"]
        {
            check(json!({ "endpoint_url": wrong }), Err(url));
        }
        let region = "`region` must be the name of a region, such as `eu-west-1`";
        check(json!({ "region": "evil.test/" }), Err(region));
        check(json!({ "region": "" }), Err(region));
        check(json!({ "access_key_id": null }), Err("`access_key_id` is missing"));
        check(json!({ "access_key_id": "a b" }), Err("`access_key_id` must be ASCII without spaces"));
        check(json!({ "session_token": "a\nb" }), Err("`session_token` must be ASCII without spaces"));
        check(json!({ "secret_access_key": 7 }), Err("`secret_access_key` must be a string"));
        check(
            json!({ "secret_access_key": "$env://MILECASTLE_HAS_NO_SUCH_VARIABLE" }),
            Err("`secret_access_key` is a reference that the environment does not resolve"),
        );
    }
}
