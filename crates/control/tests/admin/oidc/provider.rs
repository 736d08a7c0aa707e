//! A provider of OpenID Connect that does what a test says, right or wrong.

use crate::gateway::Gateway;
use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, StatusCode};
use milecastle_settings as settings;
use milecastle_testkit::Call;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

/// What the dashboard is called, and the secret that has to be escaped on its way.
pub(super) const CLIENT: &str = "milecastle";
pub(super) const SECRET: &str = "s:ecr%t";

/// Where people find the dashboard; nobody looks there in these tests.
pub(super) const PUBLIC: &str = "http://127.0.0.1:17080";

/// A provider on a port of its own. It ends with the test's runtime.
#[derive(Clone)]
pub(super) struct Provider {
    address: SocketAddr,
    conduct: Arc<Mutex<Conduct>>,
}

/// What it does.
pub(super) struct Conduct {
    keys: Vec<(String, EcdsaKeyPair)>,
    codes: HashMap<String, Asked>,
    /// Claims of the next tokens, over the right ones; `null` leaves one out.
    pub(super) claims: Value,
    /// The same of their headers.
    header: Value,
    /// Whether the next tokens are signed with a key that nobody knows.
    forged: bool,
    /// Whether it answers 500 to all that is asked of it.
    pub(super) away: bool,
    /// What its userinfo endpoint says.
    pub(super) told: Value,
    /// Whether it says where browsers are logged out.
    pub(super) leads_out: bool,
    /// How often it was asked what it says of itself, and for its keys.
    pub(super) asked: (u32, u32),
}

/// What a login was begun with.
#[derive(Clone)]
struct Asked {
    nonce: String,
    challenge: String,
    redirect: String,
    now: u64,
}

type Shared = State<Provider>;

impl Provider {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let conduct = Conduct {
            keys: vec![("k1".to_owned(), key())],
            codes: HashMap::new(),
            claims: json!({}),
            header: json!({}),
            forged: false,
            away: false,
            told: json!({}),
            leads_out: true,
            asked: (0, 0),
        };
        let provider = Self { address, conduct: Arc::new(Mutex::new(conduct)) };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(document))
            .route("/keys", get(keys))
            .route("/token", post(token))
            .route("/userinfo", get(userinfo))
            .with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        provider
    }

    pub(super) fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Settings that name it.
    pub(super) fn settings(&self) -> settings::Oidc {
        settings::Oidc {
            issuer: Some(self.issuer()),
            public_url: Some(PUBLIC.to_owned()),
            client_id: CLIENT.to_owned(),
            client_secret: Some(SECRET.to_owned().into()),
            keys_pace: settings::Time::millis(0),
            ..settings::Oidc::default()
        }
    }

    pub(super) fn conduct(&self) -> MutexGuard<'_, Conduct> {
        self.conduct.lock().unwrap()
    }

    /// Makes the next tokens of these claims and this header over the right ones, and signs them with a key that nobody knows if
    /// `forged`.
    pub(super) fn bend(&self, claims: &Value, header: &Value, forged: bool) {
        let mut conduct = self.conduct();
        (conduct.claims, conduct.header, conduct.forged) = (claims.clone(), header.clone(), forged);
    }

    /// Has another key from now on, beside those before or in their place.
    pub(super) fn rotate(&self, keep: bool) {
        let mut conduct = self.conduct();
        let name = format!("k{}", conduct.keys.len() + 1);
        if !keep {
            conduct.keys.clear();
        }
        conduct.keys.push((name, key()));
    }

    /// Lets whoever is sent to this address log in: where it sends the browser back to, path and query.
    pub(super) fn authorise(&self, gw: &Gateway, location: &str) -> String {
        let (address, query) = location.split_once('?').unwrap();
        assert_eq!(address, format!("{}/authorize", self.issuer()));
        let fields = form(query);
        let field = |name: &str| fields[name].clone();
        assert_eq!((&*field("response_type"), &*field("client_id")), ("code", CLIENT));
        assert_eq!((&*field("scope"), &*field("code_challenge_method")), ("openid profile email", "S256"));
        assert_eq!(field("redirect_uri"), format!("{PUBLIC}/api/session/oidc/callback"));
        let asked = Asked {
            nonce: field("nonce"),
            challenge: field("code_challenge"),
            redirect: field("redirect_uri"),
            now: gw.store.now(),
        };
        let mut conduct = self.conduct();
        let code = format!("code-{}", conduct.codes.len());
        conduct.codes.insert(code.clone(), asked);
        format!("/api/session/oidc/callback?code={code}&state={}&iss={}", field("state"), self.issuer())
    }
}

/// A browser on its way through a login.
pub(super) struct Way {
    /// The cookie of the login.
    pub(super) cookie: String,
    /// Where it was sent.
    pub(super) location: String,
}

impl Way {
    /// Begins a login, which must succeed.
    pub(super) async fn begin(gw: &Gateway) -> Self {
        let answer = Call::get("/api/session/oidc").to(gw.address()).await.unwrap();
        assert_eq!(answer.status, 303, "{}", answer.text());
        let cookie = answer.header("set-cookie");
        let path = "; Max-Age=600; Path=/api/session/oidc/callback; HttpOnly; SameSite=Lax";
        assert!(cookie.starts_with("milecastle_login=") && cookie.ends_with(path), "{cookie}");
        Self { cookie: cookie.split(';').next().unwrap().to_owned(), location: answer.header("location") }
    }

    /// Is sent back to a path.
    pub(super) async fn back(&self, gw: &Gateway, path: &str) -> milecastle_testkit::Answer {
        Call::get(path).header("cookie", &self.cookie).to(gw.address()).await.unwrap()
    }
}

fn key() -> EcdsaKeyPair {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()
}

/// An answer, in JSON.
type Told = (StatusCode, String);

async fn document(State(provider): Shared) -> Told {
    let mut conduct = provider.conduct();
    conduct.asked.0 += 1;
    if conduct.away {
        return (StatusCode::INTERNAL_SERVER_ERROR, String::new());
    }
    let at = |path: &str| format!("{}{path}", provider.issuer());
    let mut document = json!({
        "issuer": provider.issuer(),
        "authorization_endpoint": at("/authorize"),
        "token_endpoint": at("/token"),
        "jwks_uri": at("/keys"),
        "userinfo_endpoint": at("/userinfo"),
        "authorization_response_iss_parameter_supported": true,
    });
    if conduct.leads_out {
        document["end_session_endpoint"] = at("/leave?realm=main").into();
    }
    (StatusCode::OK, document.to_string())
}

async fn keys(State(provider): Shared) -> Told {
    let mut conduct = provider.conduct();
    conduct.asked.1 += 1;
    let shown = |(name, key): &(String, EcdsaKeyPair)| {
        let (x, y) = key.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": name, "x": x, "y": y })
    };
    (StatusCode::OK, json!({ "keys": conduct.keys.iter().map(shown).collect::<Vec<_>>() }).to_string())
}

/// Redeems a code as the standards say; what it says then, a test may have bent.
async fn token(State(provider): Shared, headers: HeaderMap, body: String) -> Told {
    let refuse = |why: &str| (StatusCode::BAD_REQUEST, json!({ "error": why }).to_string());
    let form = form(&body);
    let expected = format!("Basic {}", STANDARD.encode(format!("{CLIENT}:s%3Aecr%25t")));
    if headers.get("authorization").is_none_or(|given| given != expected.as_str()) {
        return refuse("invalid_client");
    }
    let mut conduct = provider.conduct();
    if conduct.away {
        return (StatusCode::BAD_GATEWAY, json!({ "error": "server_error" }).to_string());
    }
    let Some(asked) = conduct.codes.remove(&form["code"]) else { return refuse("invalid_grant") };
    let challenge = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, form["code_verifier"].as_bytes()));
    if challenge != asked.challenge || form["redirect_uri"] != asked.redirect {
        return refuse("invalid_grant");
    }
    let mut claims = json!({
        "iss": provider.issuer(), "aud": CLIENT, "sub": "s-1", "preferred_username": "ann",
        "nonce": asked.nonce, "iat": asked.now, "exp": asked.now + 300,
    });
    let (name, known) = conduct.keys.last().unwrap();
    let mut header = json!({ "alg": "ES256", "kid": name });
    for (into, from) in [(&mut claims, &conduct.claims), (&mut header, &conduct.header)] {
        for (name, value) in from.as_object().unwrap() {
            into[name] = value.clone();
        }
    }
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(&header), part(&claims));
    let stranger = key();
    let by = if conduct.forged { &stranger } else { known };
    let signature = match header["alg"].as_str() {
        Some("none") => String::new(),
        _ => URL_SAFE_NO_PAD.encode(by.sign(&SystemRandom::new(), text.as_bytes()).unwrap()),
    };
    let body = json!({ "access_token": "opens", "token_type": "Bearer", "id_token": format!("{text}.{signature}") });
    (StatusCode::OK, body.to_string())
}

async fn userinfo(State(provider): Shared, headers: HeaderMap) -> Told {
    match headers.get("authorization").is_some_and(|given| given == "Bearer opens") {
        true => (StatusCode::OK, provider.conduct().told.to_string()),
        false => (StatusCode::UNAUTHORIZED, String::new()),
    }
}

/// The fields of a form or a query.
fn form(text: &str) -> HashMap<&str, String> {
    text.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name, unescaped(value))).collect()
}

fn unescaped(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(code, 16).unwrap());
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).unwrap()
}
