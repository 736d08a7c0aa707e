//! ID tokens (OpenID Connect Core 1.0, §2 and §3.1.3.7; RFC 7519).
//!
//! What must stay true: nothing of a token counts before its signature does, by a key of the provider and an algorithm with a public
//! key. No error holds a token, or any claim but its name.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::jwk::{Algorithm, Keys, Unverified};

/// Longest subject, in characters (Core 1.0, §2).
const LONGEST_SUBJECT: usize = 255;

/// What a token has to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a str,
    pub(super) client_id: &'a str,
    pub(super) nonce: &'a str,
    /// Unix time in seconds.
    pub(super) now: u64,
    /// Unix time in seconds when the login began: no token of it is older.
    pub(super) began: u64,
    /// By how many seconds clocks may differ.
    pub(super) skew: u64,
}

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// It is not of the form.
    #[error("the ID token is no signed JWT")]
    Form,
    /// It is not signed in a way that proves anything here.
    #[error(
        "the ID token is signed with `{0}`: configure an algorithm with a public key (RS256, PS256, ES256, EdDSA, …) for this client"
    )]
    Algorithm(String),
    /// It demands what is not known here.
    #[error("the ID token has critical extensions (`crit`), which are not known here")]
    Critical,
    /// It names no key of the provider.
    #[error("the ID token is signed with a key that is not in the provider's key set")]
    UnknownKey,
    /// Somebody else has signed it.
    #[error("the signature of the ID token is wrong")]
    Signature,
    /// A claim is not what it has to be.
    #[error("the claim `{0}` of the ID token {1}")]
    Claim(&'static str, &'static str),
}

/// What a token says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Claims(Map<String, Value>);

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

/// Reads a token that is what it has to be.
pub(super) fn read(token: &str, keys: &Keys, expected: &Expected<'_>) -> Result<Claims, TokenError> {
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Form)?;
    let (header, claims) = signed.split_once('.').ok_or(TokenError::Form)?;
    let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Form);
    let header: Header = serde_json::from_slice(&decoded(header)?).map_err(|_| TokenError::Form)?;
    let algorithm = Algorithm::named(&header.alg).ok_or_else(|| {
        let name = header.alg.chars().filter(char::is_ascii_alphanumeric).take(16).collect();
        TokenError::Algorithm(name)
    })?;
    if header.crit.is_some() {
        return Err(TokenError::Critical);
    }
    let by = (&*header.alg, algorithm);
    keys.verify(header.kid.as_deref(), by, signed.as_bytes(), &decoded(signature)?).map_err(|why| match why {
        Unverified::UnknownKey => TokenError::UnknownKey,
        Unverified::Signature => TokenError::Signature,
    })?;
    let claims = Claims(serde_json::from_slice(&decoded(claims)?).map_err(|_| TokenError::Form)?);
    claims.check(expected)?;
    Ok(claims)
}

impl Claims {
    fn check(&self, expected: &Expected<'_>) -> Result<(), TokenError> {
        let Expected { issuer, client_id, nonce, now, began, skew } = *expected;
        let ensure = |holds: bool, name, why| if holds { Ok(()) } else { Err(TokenError::Claim(name, why)) };
        ensure(self.text("iss") == Some(issuer), "iss", "is not oidc.issuer")?;
        let audience = self.texts("aud");
        ensure(audience.contains(&client_id), "aud", "does not name oidc.client_id")?;
        // Meant for others too, it has to say that it was made for us.
        let party = self.0.get("azp");
        ensure(audience.len() == 1 || party.is_some(), "azp", "is missing, though `aud` names others too")?;
        ensure(party.is_none_or(|party| party == client_id), "azp", "is not oidc.client_id")?;
        let until = self.time("exp").ok_or(TokenError::Claim("exp", "is missing"))?;
        ensure(now < until.saturating_add(skew), "exp", "is over: do the clocks agree?")?;
        let at = self.time("iat").ok_or(TokenError::Claim("iat", "is missing"))?;
        ensure(at <= now.saturating_add(skew), "iat", "is in the future: do the clocks agree?")?;
        ensure(at.saturating_add(skew) >= began, "iat", "is from before the login: do the clocks agree?")?;
        let from = self.time("nbf").unwrap_or(0);
        ensure(from <= now.saturating_add(skew), "nbf", "is in the future: do the clocks agree?")?;
        ensure(self.text("nonce") == Some(nonce), "nonce", "is not that of this login")?;
        let subject = self.subject();
        let is_fit = (1..=LONGEST_SUBJECT).contains(&subject.chars().count()) && !subject.contains(char::is_control);
        ensure(is_fit, "sub", "is missing, or longer than 255 characters")
    }

    /// Adds what the provider says elsewhere of the same person; what the token says stays. `false`: that is about another one (Core 1.0,
    /// §5.3.2).
    pub(super) fn complete(&mut self, told: Map<String, Value>) -> bool {
        if told.get("sub").and_then(Value::as_str) != Some(self.subject()) {
            return false;
        }
        for (name, value) in told {
            self.0.entry(name).or_insert(value);
        }
        true
    }

    /// Whether it has such a claim.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whom it is about; empty where it does not say so.
    pub(super) fn subject(&self) -> &str {
        self.text("sub").unwrap_or_default()
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// The texts of a claim that is one or a list of them.
    pub(super) fn texts(&self, name: &str) -> Vec<&str> {
        match self.0.get(name) {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn holds(&self, name: &str) -> bool {
        self.0.get(name) == Some(&Value::Bool(true))
    }

    /// Unix time in seconds; what stands behind the point does not count.
    fn time(&self, name: &str) -> Option<u64> {
        let value = self.0.get(name)?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        value.as_u64().or_else(|| value.as_f64().filter(|time| *time >= 0.0).map(|time| time as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use serde_json::json;

    const EXPECTED: Expected<'_> = Expected {
        issuer: "https://id.example.com",
        client_id: "milecastle",
        nonce: "n-1",
        now: 1_700_000_100,
        began: 1_700_000_050,
        skew: 30,
    };

    /// A provider with one key.
    struct Provider(EcdsaKeyPair);

    impl Provider {
        fn new() -> Self {
            Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
        }

        fn keys(&self) -> Keys {
            let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
            let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
            Keys::parse(&json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": "one", "x": x, "y": y }] }))
        }

        fn signed(&self, header: &Value, claims: &Value) -> String {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let text = format!("{}.{}", part(header), part(claims));
            let signature = self.0.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
            format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
        }
    }

    fn header() -> Value {
        json!({ "alg": "ES256", "kid": "one" })
    }

    fn claims() -> Value {
        json!({
            "iss": "https://id.example.com", "aud": "milecastle", "sub": "s-1", "nonce": "n-1",
            "iat": 1_700_000_090, "exp": 1_700_000_400, "groups": ["a", 7, "b"], "email_verified": true,
        })
    }

    #[test]
    fn what_a_token_says() {
        let provider = Provider::new();
        let claims = read(&provider.signed(&header(), &claims()), &provider.keys(), &EXPECTED).unwrap();
        assert_eq!((claims.subject(), claims.text("nonce"), claims.text("groups")), ("s-1", Some("n-1"), None));
        assert_eq!((claims.texts("groups"), claims.texts("sub")), (vec!["a", "b"], vec!["s-1"]));
        assert!(claims.holds("email_verified") && !claims.holds("sub"));
    }

    #[test]
    fn what_is_told_elsewhere_is_of_the_same_person() {
        let provider = Provider::new();
        let token = provider.signed(&header(), &claims());
        let mut claims = read(&token, &provider.keys(), &EXPECTED).unwrap();
        for stranger in [json!({ "sub": "s-2", "name": "eve" }), json!({ "name": "eve" })] {
            assert!(!claims.complete(stranger.as_object().unwrap().clone()) && !claims.has("name"));
        }
        let told = json!({ "sub": "s-1", "name": "ann", "groups": ["admins"] });
        assert!(claims.complete(told.as_object().unwrap().clone()));
        assert_eq!((claims.text("name"), claims.texts("groups")), (Some("ann"), vec!["a", "b"]));
    }

    #[test]
    fn claims_that_are_not_what_they_have_to_be() {
        let provider = Provider::new();
        let check = |changes: Value, expected: Result<(), (&str, &str)>| {
            let mut claims = claims();
            for (name, value) in changes.as_object().unwrap() {
                claims[name] = value.clone();
            }
            let read = read(&provider.signed(&header(), &claims), &provider.keys(), &EXPECTED);
            let told = read.map(drop).map_err(|error| match error {
                TokenError::Claim(name, why) => (name, why),
                other => panic!("{other}"),
            });
            assert_eq!(told, expected, "{changes}");
        };
        let (late, missing) = ("is over: do the clocks agree?", "is missing");
        check(json!({ "iss": "https://id.example.com/" }), Err(("iss", "is not oidc.issuer")));
        check(json!({ "aud": "other" }), Err(("aud", "does not name oidc.client_id")));
        check(json!({ "aud": ["milecastle"] }), Ok(()));
        let others = "is missing, though `aud` names others too";
        check(json!({ "aud": ["milecastle", "other"] }), Err(("azp", others)));
        check(json!({ "aud": ["milecastle", "other"], "azp": "milecastle" }), Ok(()));
        check(json!({ "azp": "other" }), Err(("azp", "is not oidc.client_id")));
        check(json!({ "exp": 1_700_000_070 }), Err(("exp", late)));
        check(json!({ "exp": 1_700_000_071 }), Ok(()));
        check(json!({ "exp": 1_700_000_071.5 }), Ok(()));
        check(json!({ "exp": "never" }), Err(("exp", missing)));
        check(json!({ "iat": null }), Err(("iat", missing)));
        check(json!({ "iat": 1_700_000_131 }), Err(("iat", "is in the future: do the clocks agree?")));
        check(json!({ "iat": 1_700_000_019 }), Err(("iat", "is from before the login: do the clocks agree?")));
        check(json!({ "iat": 1_700_000_020 }), Ok(()));
        check(json!({ "nbf": 1_700_000_131 }), Err(("nbf", "is in the future: do the clocks agree?")));
        check(json!({ "nonce": "n-2" }), Err(("nonce", "is not that of this login")));
        check(json!({ "nonce": null }), Err(("nonce", "is not that of this login")));
        check(json!({ "sub": "" }), Err(("sub", "is missing, or longer than 255 characters")));
        check(json!({ "sub": "x".repeat(256) }), Err(("sub", "is missing, or longer than 255 characters")));
    }

    #[test]
    fn tokens_that_nobody_vouches_for() {
        let (provider, stranger) = (Provider::new(), Provider::new());
        let check = |token: &str, expected: TokenError| {
            assert_eq!(read(token, &provider.keys(), &EXPECTED), Err(expected), "{token}");
        };
        let with = |name: &str, value: Value| {
            let mut header = header();
            header[name] = value;
            provider.signed(&header, &claims())
        };
        for name in ["none", "HS256"] {
            check(&with("alg", json!(name)), TokenError::Algorithm(name.to_owned()));
        }
        let (unsigned, _) =
            with("alg", json!("none")).rsplit_once('.').map(|(a, b)| (format!("{a}."), b.to_owned())).unwrap();
        check(&unsigned, TokenError::Algorithm("none".to_owned()));
        check(&with("alg", json!("RS256")), TokenError::UnknownKey);
        check(&with("kid", json!("two")), TokenError::UnknownKey);
        check(&with("crit", json!(["exp"])), TokenError::Critical);
        check(&stranger.signed(&header(), &claims()), TokenError::Signature);
        let token = provider.signed(&header(), &claims());
        let other = URL_SAFE_NO_PAD.encode(json!({ "sub": "s-2" }).to_string());
        let parts: Vec<&str> = token.split('.').collect();
        check(&format!("{}.{other}.{}", parts[0], parts[2]), TokenError::Signature);
        for none in ["", "a", "a.b", "a.b.c", "..", token.split_at(token.len() / 4).0] {
            check(none, TokenError::Form);
        }
    }
}
