//! `docs/spec/resources.md` §13, rule 3.

use super::*;
use crate::secrets::breaker::Turn;
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Response;
use milecastle_testkit::TempDir;
use milecastle_testkit::registry::{Asked, Body, parameters, whole};
use milecastle_testkit::tls::Authority;
use serde_json::json;
use std::pin::Pin;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The key of a service account.
pub(in crate::secrets) struct Key {
    public: Vec<u8>,
    pub(in crate::secrets) pkcs8: String,
    pkcs1: String,
}

pub(in crate::secrets) static KEY: LazyLock<Key> = LazyLock::new(|| {
    let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let pkcs8: Pkcs8V1Der<'static> = key.as_der().unwrap();
    let pkcs8: &[u8] = pkcs8.as_ref();
    // The key in PKCS#1 is what the last member has, behind version, algorithm, and 4 bytes each for the lengths of the whole and
    // of itself (RFC 5208 §5).
    let pkcs1 = &pkcs8[26..];
    Key {
        public: key.public_key().as_ref().to_vec(),
        pkcs8: pem("PRIVATE KEY", pkcs8),
        pkcs1: pem("RSA PRIVATE KEY", pkcs1),
    }
});

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: String =
        text.as_bytes().chunks(64).map(|line| format!("{}\n", std::str::from_utf8(line).unwrap())).collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

/// Google's authorization server and its Secret Manager ("Using OAuth 2.0 for Server to Server Applications", "Secret Manager
/// API"), for the service account `robot@p-1`.
struct Google {
    scope: &'static str,
    /// How long tokens hold, in seconds.
    expires_in: u64,
    /// Number of the token that is good now.
    token: AtomicU64,
}

impl Google {
    fn start(expires_in: u64) -> Server<Self> {
        let scope = "https://www.googleapis.com/auth/cloud-platform";
        Server::run(Self { scope, expires_in, token: AtomicU64::new(1) })
    }

    fn bearer(&self) -> String {
        format!("ya29.token-{}", self.token.load(Ordering::Relaxed))
    }

    fn log_in(&self, asked: &Asked) -> Response<Body> {
        let form = parameters(std::str::from_utf8(&asked.body).unwrap());
        let proven = asked.header("content-type") == "application/x-www-form-urlencoded"
            && form.get("grant_type").is_some_and(|kind| kind == "urn:ietf:params:oauth:grant-type:jwt-bearer")
            && form.get("assertion").is_some_and(|jwt| self.verify(jwt, asked.header("host")).is_some());
        if !proven {
            return whole(400, json!({ "error": "invalid_grant", "error_description": "Invalid JWT." }).to_string());
        }
        let token = json!({ "access_token": self.bearer(), "expires_in": self.expires_in, "token_type": "Bearer" });
        whole(200, token.to_string())
    }

    /// `None` if the account has not signed the JWT, or it says anything but what it has to.
    fn verify(&self, jwt: &str, host: &str) -> Option<()> {
        let (signed, signature) = jwt.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &KEY.public);
        key.verify(signed.as_bytes(), &signature).ok()?;
        let part = |text: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(text).ok()?).ok();
        let (header, claims) = signed.split_once('.')?;
        let (header, claims) = (part(header)?, part(claims)?);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        let (issued, ends) = (claims["iat"].as_u64()?, claims["exp"].as_u64()?);
        let good = header == json!({ "alg": "RS256", "typ": "JWT" })
            && claims["iss"] == "robot@p-1"
            && claims["aud"] == format!("http://{host}/token")
            && claims["scope"] == self.scope
            && issued <= now
            && now < ends
            && ends - issued <= 3600;
        good.then_some(())
    }

    fn access(&self, asked: &Asked) -> Response<Body> {
        let error = |code: u16, status: &str| {
            whole(code, json!({ "error": { "code": code, "message": "m", "status": status } }).to_string())
        };
        if asked.header("authorization") != format!("Bearer {}", self.bearer()) {
            return error(401, "UNAUTHENTICATED");
        }
        let name = asked.target.path().strip_prefix("/v1/projects/p-1/secrets/");
        let value: &[u8] = match name.and_then(|name| name.strip_suffix("/versions/latest:access")) {
            Some("plain") => b"s3cret",
            Some("json") => br#"{"user":"u","port":5432,"tls":{"on":true},"none":null,"a/b":"c"}"#,
            Some("binary") => b"\xff\xfe",
            Some("destroyed") => return error(400, "FAILED_PRECONDITION"),
            Some("forbidden") => return error(403, "PERMISSION_DENIED"),
            Some("junk") => return whole(200, json!({ "payload": { "data": "no base64!" } }).to_string()),
            _ => return error(404, "NOT_FOUND"),
        };
        let answer = json!({ "name": "n", "payload": { "data": STANDARD.encode(value), "dataCrc32c": "1" } });
        whole(200, answer.to_string())
    }
}

impl Protocol for Google {
    fn answer(self: Arc<Self>, asked: Asked) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        Box::pin(async move {
            match (asked.method.as_str(), asked.target.path()) {
                ("POST", "/token") => self.log_in(&asked),
                ("GET", _) => self.access(&asked),
                _ => whole(404, ""),
            }
        })
    }
}

fn account(server: &Server<Google>) -> Value {
    json!({
        "client_email": "robot@p-1",
        "private_key": KEY.pkcs8,
        "project_id": "p-1",
        "token_uri": format!("{}/token", server.url()),
        "entries_uri": format!("{}/v1", server.url()),
    })
}

fn object(server: &Server<Google>) -> Value {
    json!({ "auth_config": account(server) })
}

/// How often somebody has logged in.
fn logins(server: &Server<Google>) -> usize {
    server.asked().iter().filter(|asked| asked.method == "POST").count()
}

#[tokio::test]
async fn resources_13_3_gcp_the_first_part_is_the_secret_and_the_rest_its_field() {
    let server = Google::start(3600);
    let gcp = manager("gcp/1", &object(&server));
    for (path, expected) in [
        ("plain", found("s3cret")),
        ("json", found(r#"{"user":"u","port":5432,"tls":{"on":true},"none":null,"a/b":"c"}"#)),
        ("json/user", found("u")),
        ("json/port", found("5432")),
        ("json/tls", found(r#"{"on":true}"#)),
        ("json/a/b", found("c")),
        ("json/none", Err(Trouble::nothing())),
        ("json/nothing", Err(Trouble::nothing())),
        ("plain/field", Err(Trouble::nothing())),
        ("binary", Err(Trouble::nothing())),
        ("destroyed", Err(Trouble::nothing())),
        ("unknown", Err(Trouble::nothing())),
    ] {
        assert_eq!(gcp.fetch_one(path).await, expected, "{path}");
    }
    for (path, expected) in [
        ("forbidden", "answers with status 403, PERMISSION_DENIED"),
        ("junk", "is not of the form that is documented"),
        ("", "names a secret of letters, digits, `-` and `_`"),
        ("../plain", "names a secret of letters, digits, `-` and `_`"),
    ] {
        let text = failure(gcp.fetch_one(path).await);
        assert!(text.ends_with(expected), "{path}: {text}");
    }
}

#[tokio::test]
async fn resources_13_3_gcp_a_token_is_kept_until_a_minute_before_it_ends() {
    for (expires_in, expected) in [(3600, 1), (60, 3)] {
        let server = Google::start(expires_in);
        let gcp = manager("gcp/1", &object(&server));
        for _ in 0..3 {
            assert_eq!(gcp.fetch_one("plain").await, found("s3cret"));
        }
        assert_eq!(logins(&server), expected);
    }
}

#[tokio::test]
async fn resources_13_3_gcp_those_who_ask_at_once_log_in_once() {
    let server = Google::start(3600);
    let gcp = manager("gcp/1", &object(&server));
    let fetched = tokio::join!(gcp.fetch_one("plain"), gcp.fetch_one("json/user"), gcp.fetch_one("json/port"));
    assert_eq!(fetched, (found("s3cret"), found("u"), found("5432")));
    assert_eq!(logins(&server), 1);
}

#[tokio::test]
async fn resources_13_3_gcp_a_token_that_was_taken_back_is_replaced() {
    let server = Google::start(3600);
    let gcp = manager("gcp/1", &object(&server));
    assert_eq!(gcp.fetch_one("plain").await, found("s3cret"));
    server.token.fetch_add(1, Ordering::Relaxed);
    assert_eq!(gcp.fetch_one("plain").await, found("s3cret"));
    assert_eq!(logins(&server), 2);
}

#[tokio::test]
async fn resources_13_3_gcp_keys_are_pkcs8_or_pkcs1() {
    let server = Google::start(3600);
    let mut body = object(&server);
    for key in [&KEY.pkcs8, &KEY.pkcs1] {
        body["auth_config"]["private_key"] = key.as_str().into();
        assert_eq!(manager("gcp/1", &body).fetch_one("plain").await, found("s3cret"));
    }
    let why = "must be an RSA key of 2048 to 8192 bits in PEM, PKCS#8 or PKCS#1, without a passphrase";
    let curve = Authority::new("a").identity().key;
    for key in ["no key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", curve.as_str()] {
        body["auth_config"]["private_key"] = key.into();
        assert_eq!(fault("gcp/1", &body), format!("`auth_config.private_key` {why}"));
    }
}

#[tokio::test]
async fn resources_13_3_gcp_another_account_is_not_let_in() {
    let server = Google::start(3600);
    let mut body = object(&server);
    body["auth_config"]["client_email"] = "other@p-1".into();
    let text = failure(manager("gcp/1", &body).fetch_one("plain").await);
    assert_eq!(text, format!("{} answers with status 400, invalid_grant", server.url()));
}

#[tokio::test]
async fn resources_13_3_gcp_scopes_are_those_of_the_object() {
    let server = Server::run(Google { scope: "a b", expires_in: 3600, token: AtomicU64::new(1) });
    let mut body = object(&server);
    assert!(failure(manager("gcp/1", &body).fetch_one("plain").await).contains("invalid_grant"));
    body["auth_config"]["scope"] = json!(["a", "b"]);
    assert_eq!(manager("gcp/1", &body).fetch_one("plain").await, found("s3cret"));
}

#[tokio::test]
async fn resources_13_3_gcp_an_account_of_a_file_is_read_before_each_login() {
    let (dir, server) = (TempDir::new(), Google::start(60));
    let path = dir.path().join("account.json");
    let gcp = manager("gcp/1", &json!({ "auth_file": path.display().to_string() }));
    let fails = async || failure(gcp.fetch_one("plain").await);
    assert!(fails().await.starts_with("`auth_file` cannot be used: "));
    let mut account = account(&server);
    account["type"] = "service_account".into();
    dir.write("account.json", account.to_string());
    assert_eq!(gcp.fetch_one("plain").await, found("s3cret"));
    dir.write("account.json", KEY.pkcs8.as_bytes());
    assert_eq!(fails().await, "`auth_file` cannot be used: it is no JSON");
    account.as_object_mut().unwrap().remove("project_id");
    dir.write("account.json", account.to_string());
    assert_eq!(fails().await, "`auth_file.project_id` is missing");
    dir.write("account.json", vec![b' '; (64 << 10) + 1]);
    assert_eq!(fails().await, "`auth_file` cannot be used: it is no file of at most 65536 bytes");
}

#[tokio::test]
async fn resources_13_3_gcp_ssl_verify_alone_turns_verification_off() {
    let server = Google::start(3600);
    let address = encrypted(&Authority::new("unknown").issue(&["127.0.0.1"]), server.address()).await;
    let mut body = object(&server);
    body["auth_config"]["entries_uri"] = format!("https://{address}/v1").into();
    for verify in [Value::Null, true.into()] {
        body["ssl_verify"] = verify;
        let text = failure(manager("gcp/1", &body).fetch_one("plain").await);
        assert!(text.starts_with(&format!("https://{address} cannot be asked")), "{text}");
    }
    body["ssl_verify"] = false.into();
    assert_eq!(manager("gcp/1", &body).fetch_one("plain").await, found("s3cret"));
}

#[tokio::test]
async fn resources_13_3_gcp_failures_tell_no_secret() {
    let key = KEY.pkcs8.lines().nth(1).unwrap();
    for place in ["token_uri", "entries_uri"] {
        let (good, mut bad) = (Google::start(3600), Google::start(3600));
        let mut body = object(&good);
        body["auth_config"][place] = account(&bad)[place].clone();
        check_failures(&mut bad, ("gcp/1", &body), "plain", &[key, "ya29", "s3cret"]).await;
    }
}

#[tokio::test]
async fn a_login_that_is_answered_says_nothing_of_the_server_of_the_secrets() {
    // Tokens that hold for one use: each fetch logs in.
    let (good, silent) = (Google::start(0), Google::start(0));
    silent.fail(Some(Fault::Silence));
    let mut body = object(&good);
    body["auth_config"]["entries_uri"] = account(&silent)["entries_uri"].clone();
    let manager = Manager::new("gcp/1", &body, outlet(None), patience(Duration::from_millis(100))).unwrap();
    for path in ["plain", "json"] {
        failure(manager.fetch_one(path).await);
    }
    let lost = Turn::Lost("there is no answer within 100ms".to_owned());
    assert_eq!(manager.breaker().turn(), Some(lost));
    failure(manager.fetch_one("plain").await);
    assert_eq!(manager.breaker().turn(), None, "it is out of reach as before");
}

#[tokio::test]
async fn resources_13_3_gcp_faults_of_the_object_are_named_without_values() {
    let server = Google::start(3600);
    let both = json!({ "auth_config": account(&server), "auth_file": "/a" });
    for body in [json!({}), both] {
        assert_eq!(fault("gcp/1", &body), "exactly one of `auth_config` and `auth_file` is needed");
    }
    let check = |name: &str, value: Value, expected: &str| {
        let mut body = object(&server);
        body["auth_config"][name] = value;
        assert_eq!(fault("gcp/1", &body), format!("`auth_config.{name}` {expected}"));
    };
    check("client_email", Value::Null, "is missing");
    check("project_id", 7.into(), "must be a string");
    check("scope", "a".into(), "must be a list of strings");
    check("scope", json!(["a", 1]), "must be a list of strings");
    let url =
        "must be of the form `https://host[:port][/path]`, or the same with `http`, without login, query and fragment";
    check("token_uri", "oauth2.googleapis.com".into(), url);
    check("entries_uri", "http://user:secret@a/?b".into(), url);
    let mut body = object(&server);
    body["ssl_verify"] = "no".into();
    assert_eq!(fault("gcp/1", &body), "`ssl_verify` must be a boolean");
}

#[tokio::test]
async fn resources_13_3_gcp_a_secret_is_read_once_for_all_of_its_members() {
    let server = Google::start(3600);
    let paths = ["json/user", "json/port", "json/nothing"].map(str::to_owned);
    let fetched = manager("gcp/1", &object(&server)).fetch("$secret://gcp/1/json", &paths).await;
    assert_eq!(fetched, [found("u"), found("5432"), Err(Trouble::nothing())]);
    assert_eq!(server.asked().len(), 1 + logins(&server));
}
