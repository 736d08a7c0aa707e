//! The keys of a provider (RFC 7517), and signatures by them (RFC 7518).
//!
//! What must stay true: a key verifies the algorithms of its own type alone, and none of them is symmetric. So no public key is ever
//! taken for a shared secret.

use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

/// Begins a point of a curve that is not compressed (SEC 1, 2.3.3).
const UNCOMPRESSED: u8 = 4;

/// How a token may be signed.
#[derive(Clone, Copy)]
pub(super) enum Algorithm {
    /// RSA, with PKCS#1 v1.5 or PSS.
    Rsa(&'static RsaParameters),
    /// ECDSA on P-256 with SHA-256.
    P256,
    /// ECDSA on P-384 with SHA-384.
    P384,
    /// Ed25519.
    Ed25519,
}

/// A key of a provider.
#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// The one algorithm that it is for, if it says so.
    algorithm: Option<String>,
    material: Material,
}

#[derive(Debug)]
enum Material {
    /// Modulus and exponent, big endian without leading zeros.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// A point of P-256.
    P256(Vec<u8>),
    /// A point of P-384.
    P384(Vec<u8>),
    /// A point of Ed25519.
    Ed25519(Vec<u8>),
}

/// The keys of a provider that verify signatures.
#[derive(Debug, Default)]
pub(super) struct Keys(Vec<Key>);

/// Why a signature does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unverified {
    /// No key of that name and type is known.
    UnknownKey,
    /// It is none of this text.
    Signature,
}

/// A key as it is written.
#[derive(Deserialize)]
struct Written {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    used_for: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Algorithm {
    /// The one of this name; `None` also for `none` and for those with a shared secret.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
            "RS384" => Self::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
            "RS512" => Self::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
            "PS256" => Self::Rsa(&signature::RSA_PSS_2048_8192_SHA256),
            "PS384" => Self::Rsa(&signature::RSA_PSS_2048_8192_SHA384),
            "PS512" => Self::Rsa(&signature::RSA_PSS_2048_8192_SHA512),
            "ES256" => Self::P256,
            "ES384" => Self::P384,
            // RFC 9864 names the curve.
            "EdDSA" | "Ed25519" => Self::Ed25519,
            _ => return None,
        })
    }
}

impl Keys {
    /// Those of a JWK set; what is no public key for signatures, or of a type that is not known, is left out.
    pub(super) fn parse(set: &Value) -> Self {
        let written = set.get("keys").and_then(Value::as_array).into_iter().flatten();
        Self(written.filter_map(|key| Written::deserialize(key).ok()?.key()).collect())
    }

    /// Whether `signature` is one of `text` by the key named `id`; without a name, by any of the type.
    pub(super) fn verify(
        &self,
        id: Option<&str>,
        (name, algorithm): (&str, Algorithm),
        text: &[u8],
        signature: &[u8],
    ) -> Result<(), Unverified> {
        let named = |key: &&Key| id.is_none_or(|id| key.id.as_deref() == Some(id));
        let meant = |key: &&Key| key.algorithm.as_deref().is_none_or(|only| only == name);
        let fit = self.0.iter().filter(named).filter(meant).filter(|key| key.material.is_for(algorithm));
        let mut outcome = Err(Unverified::UnknownKey);
        for key in fit {
            if key.material.verifies(algorithm, text, signature) {
                return Ok(());
            }
            outcome = Err(Unverified::Signature);
        }
        outcome
    }
}

impl Written {
    fn key(self) -> Option<Key> {
        if self.used_for.is_some_and(|used_for| used_for != "sig") {
            return None;
        }
        let decoded = |text: Option<String>| URL_SAFE_NO_PAD.decode(text?).ok();
        let point =
            |x: Option<String>, y: Option<String>| Some([vec![UNCOMPRESSED], decoded(x)?, decoded(y)?].concat());
        let material = match (&*self.kty, self.crv.as_deref()) {
            ("RSA", _) => Material::Rsa { n: decoded(self.n)?, e: decoded(self.e)? },
            ("EC", Some("P-256")) => Material::P256(point(self.x, self.y)?),
            ("EC", Some("P-384")) => Material::P384(point(self.x, self.y)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(decoded(self.x)?),
            _ => return None,
        };
        Some(Key { id: self.kid, algorithm: self.alg, material })
    }
}

impl Material {
    fn is_for(&self, algorithm: Algorithm) -> bool {
        matches!(
            (self, algorithm),
            (Self::Rsa { .. }, Algorithm::Rsa(_))
                | (Self::P256(_), Algorithm::P256)
                | (Self::P384(_), Algorithm::P384)
                | (Self::Ed25519(_), Algorithm::Ed25519)
        )
    }

    fn verifies(&self, algorithm: Algorithm, text: &[u8], signature: &[u8]) -> bool {
        let by = |algorithm: &'static dyn VerificationAlgorithm, point: &[u8]| {
            UnparsedPublicKey::new(algorithm, point).verify(text, signature).is_ok()
        };
        match (self, algorithm) {
            (Self::Rsa { n, e }, Algorithm::Rsa(parameters)) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, text, signature).is_ok()
            }
            (Self::P256(point), Algorithm::P256) => by(&ECDSA_P256_SHA256_FIXED, point),
            (Self::P384(point), Algorithm::P384) => by(&ECDSA_P384_SHA384_FIXED, point),
            (Self::Ed25519(point), Algorithm::Ed25519) => by(&ED25519, point),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn algorithms_that_prove_nothing_have_no_name() {
        for name in ["none", "None", "HS256", "HS384", "HS512", "RS1", ""] {
            assert!(Algorithm::named(name).is_none(), "{name}");
        }
    }

    /// The key and the signature of RFC 8037, appendix A.4 and A.5.
    #[test]
    fn an_ed25519_signature_of_the_standard() {
        let keys = Keys::parse(&json!({ "keys": [{
            "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        }] }));
        let text = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let verify = |name, text: &[u8]| keys.verify(None, (name, Algorithm::named(name).unwrap()), text, &signature);
        assert_eq!(verify("EdDSA", text), Ok(()));
        assert_eq!(verify("EdDSA", b"another text"), Err(Unverified::Signature));
        assert_eq!(verify("ES256", text), Err(Unverified::UnknownKey));
    }

    #[test]
    fn keys_that_are_none_are_left_out() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let keys = Keys::parse(&json!({ "keys": [
            { "kty": "oct", "k": "c2VjcmV0" },
            { "kty": "OKP", "crv": "Ed25519", "x": x, "use": "enc" },
            { "kty": "OKP", "crv": "X25519", "x": x },
            { "kty": "RSA", "n": "AQAB" },
            "nonsense",
            { "kty": "OKP", "crv": "Ed25519", "x": x, "kid": "one", "alg": "EdDSA" },
        ] }));
        assert_eq!(keys.0.len(), 1);
        let verify = |id| keys.verify(id, ("EdDSA", Algorithm::Ed25519), b"", &[0; 64]);
        assert_eq!(
            (verify(Some("one")), verify(Some("other"))),
            (Err(Unverified::Signature), Err(Unverified::UnknownKey))
        );
    }
}
