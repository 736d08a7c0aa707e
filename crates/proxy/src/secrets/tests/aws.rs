//! `docs/spec/resources.md` §13, rule 2.

use super::*;
use aws_lc_rs::{digest, hmac};
use http::Response;
use milecastle_testkit::registry::{Asked, Body, whole};
use serde_json::json;
use std::pin::Pin;

const KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const SESSION: &str = "IQoJb3JpZ2luX2VjEXAMPLE==";

/// AWS Secrets Manager in one region (AWS, "GetSecretValue" and "Signature Version 4 for API requests").
struct Aws {
    region: &'static str,
    /// Where requests go.
    path: &'static str,
    session: &'static str,
    /// Members of answers by the names of secrets; what is a string in place of one is the name of an error.
    secrets: Vec<(&'static str, Value)>,
}

impl Aws {
    fn start(secrets: &[(&'static str, Value)]) -> Server<Self> {
        Server::run(Self { region: "us-east-1", path: "/", session: "", secrets: secrets.to_vec() })
    }

    /// The signature is computed from what has come; `None` if another one was sent, or one of less than has to be signed.
    fn verify(&self, asked: &Asked) -> Option<()> {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let sha256 = |bytes: &[u8]| hex(digest::digest(&digest::SHA256, bytes).as_ref());
        let sign = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
        let time = asked.header("x-amz-date");
        let day = time.get(..8)?;
        let scope = format!("{day}/{}/secretsmanager/aws4_request", self.region);
        let proof = asked.header("authorization");
        let proof = proof.strip_prefix(&format!("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{scope}, SignedHeaders="))?;
        let (signed, signature) = proof.split_once(", Signature=")?;
        let mut required = vec!["content-type", "host", "x-amz-date", "x-amz-target"];
        if !self.session.is_empty() {
            required.insert(3, "x-amz-security-token");
        }
        if signed.split(';').collect::<Vec<_>>() != required {
            return None;
        }
        let headers: String = required.iter().map(|name| format!("{name}:{}\n", asked.header(name))).collect();
        let canonical =
            format!("{}\n{}\n\n{headers}\n{signed}\n{}", asked.method, asked.target.path(), sha256(&asked.body));
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256(canonical.as_bytes()));
        let key = sign(format!("AWS4{KEY}").as_bytes(), day);
        let key = sign(key.as_ref(), self.region);
        let key = sign(key.as_ref(), "secretsmanager");
        let key = sign(key.as_ref(), "aws4_request");
        (hex(sign(key.as_ref(), &text).as_ref()) == signature).then_some(())
    }

    fn get_secret_value(&self, asked: &Asked) -> Response<Body> {
        let error = |code: &str| whole(400, json!({ "__type": code, "Message": "m" }).to_string());
        if asked.method != "POST"
            || asked.target != self.path
            || asked.header("content-type") != "application/x-amz-json-1.1"
        {
            return error("UnknownOperationException");
        }
        if self.verify(asked).is_none() {
            return error("InvalidSignatureException");
        }
        if asked.header("x-amz-security-token") != self.session {
            return error("UnrecognizedClientException");
        }
        if asked.header("x-amz-target") != "secretsmanager.GetSecretValue" {
            return error("UnknownOperationException");
        }
        let name = name(asked);
        match self.secrets.iter().find(|(known, _)| *known == name) {
            Some((_, Value::String(code))) => error(code),
            Some((_, members)) => {
                let mut answer =
                    json!({ "ARN": "arn", "Name": name, "VersionId": "v", "VersionStages": ["AWSCURRENT"] });
                answer.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
                whole(200, answer.to_string())
            }
            None => error("ResourceNotFoundException"),
        }
    }
}

impl Protocol for Aws {
    fn answer(self: Arc<Self>, asked: Asked) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        Box::pin(async move { self.get_secret_value(&asked) })
    }
}

/// The name of the secret that was asked for.
fn name(asked: &Asked) -> String {
    let body: Value = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!(body["VersionStage"], "AWSCURRENT");
    body["SecretId"].as_str().unwrap().to_owned()
}

fn object(server: &Server<Aws>) -> Value {
    json!({ "access_key_id": "AKIDEXAMPLE", "secret_access_key": KEY, "endpoint_url": server.url() })
}

/// Fetches, and says as well which names were asked for.
async fn fetch(server: &Server<Aws>, path: &str) -> (Found, Vec<String>) {
    let before = server.asked().len();
    let fetched = manager("aws/1", &object(server)).fetch_one(path).await;
    (fetched, server.asked().iter().skip(before).map(name).collect())
}

#[tokio::test]
async fn resources_13_2_aws_without_a_field_the_whole_string_is_the_secret() {
    let server =
        Aws::start(&[("plain", json!({ "SecretString": r#"{"a":1}"# })), ("/a/b/c", json!({ "SecretString": "d" }))]);
    assert_eq!(fetch(&server, "plain").await, (found(r#"{"a":1}"#), vec!["plain".to_owned()]));
    assert_eq!(fetch(&server, "/a/b/c").await, (found("d"), vec!["/a/b/c".to_owned()]));
}

#[tokio::test]
async fn resources_13_2_aws_the_longest_name_is_asked_for_first() {
    let members = r#"{"user":"u","password":"other","port":5432,"tls":{"on":true},"none":null,"a/b":"c","a b":"d"}"#;
    let server = Aws::start(&[
        ("prod/db/password", json!({ "SecretString": "p" })),
        ("prod/db", json!({ "SecretString": members })),
        ("text", json!({ "SecretString": "no JSON" })),
    ]);
    let absent = || Err(Trouble::nothing());
    for (path, expected, names) in [
        ("prod/db/password", found("p"), "prod/db/password"),
        ("prod/db/user", found("u"), "prod/db/user prod/db"),
        ("prod/db/port", found("5432"), "prod/db/port prod/db"),
        ("prod/db/tls", found(r#"{"on":true}"#), "prod/db/tls prod/db"),
        ("prod/db/none", absent(), "prod/db/none prod/db"),
        ("prod/db/nothing", absent(), "prod/db/nothing prod/db"),
        ("prod/db/a/b", found("c"), "prod/db/a/b prod/db/a prod/db"),
        // No secret can have this name.
        ("prod/db/a b", found("d"), "prod/db"),
        ("text/field", absent(), "text/field text"),
        ("x/y/z", absent(), "x/y/z x/y x"),
        ("/x/y", absent(), "/x/y /x"),
    ] {
        let names = names.split(' ').map(str::to_owned).collect();
        assert_eq!(fetch(&server, path).await, (expected, names), "{path}");
    }
    assert!(failure(fetch(&server, "").await.0).contains("name of a secret"));
}

#[tokio::test]
async fn resources_13_2_aws_what_a_policy_hides_is_a_failure_unless_a_shorter_name_is_found() {
    let server = Aws::start(&[
        ("db/user", json!("AccessDeniedException")),
        ("db/nothing", json!("AccessDeniedException")),
        ("db", json!({ "SecretString": r#"{"user":"u"}"# })),
        ("hidden", json!("AccessDeniedException")),
    ]);
    assert_eq!(fetch(&server, "db/user").await.0, found("u"));
    for path in ["hidden", "hidden/key", "db/nothing"] {
        let expected = format!("{} answers with status 400, AccessDeniedException", server.url());
        assert_eq!(failure(fetch(&server, path).await.0), expected, "{path}");
    }
}

#[tokio::test]
async fn resources_13_2_aws_session_token_region_and_path_are_signed() {
    let secrets = vec![("a", json!({ "SecretString": "b" }))];
    let server = Server::run(Aws { region: "eu-west-1", path: "/aws/v1", session: SESSION, secrets });
    let mut body = object(&server);
    body["endpoint_url"] = format!("{}/aws/v1/", server.url()).into();
    body["region"] = "eu-west-1".into();
    body["session_token"] = SESSION.into();
    assert_eq!(manager("aws/1", &body).fetch_one("a").await, found("b"));
    for (name, other) in
        [("region", json!("us-east-1")), ("secret_access_key", json!("x")), ("session_token", json!("x"))]
    {
        let mut body = body.clone();
        body[name] = other;
        let text = failure(manager("aws/1", &body).fetch_one("a").await);
        assert!(text.contains("status 400, "), "{name}: {text}");
    }
}

#[tokio::test]
async fn resources_13_2_aws_secrets_that_are_deleted_or_no_text_are_absent() {
    let server = Aws::start(&[
        ("binary", json!({ "SecretBinary": "AAEC" })),
        ("deleted", json!("InvalidRequestException")),
        ("qualified", json!("com.amazonaws.secretsmanager#ResourceNotFoundException")),
    ]);
    for path in ["binary", "deleted", "deleted/key", "qualified"] {
        assert_eq!(fetch(&server, path).await.0, Err(Trouble::nothing()), "{path}");
    }
}

#[tokio::test]
async fn resources_13_2_aws_failures_tell_no_secret() {
    let mut server = Aws::start(&[
        ("a", json!({ "SecretString": "value-of-a" })),
        ("throttled", json!("ThrottlingException")),
        // What is no name of an error is not told on.
        ("echo", json!(KEY)),
        ("neither", json!({})),
    ]);
    let fails = async |path| failure(fetch(&server, path).await.0);
    assert_eq!(fails("throttled").await, format!("{} answers with status 400, ThrottlingException", server.url()));
    assert_eq!(fails("echo").await, format!("{} answers with status 400", server.url()));
    assert!(fails("neither").await.ends_with("not of the form that is documented"));
    let mut body = object(&server);
    body["session_token"] = SESSION.into();
    check_failures(&mut server, ("aws/1", &body), "a", &[KEY, SESSION, "value-of-a"]).await;
}
