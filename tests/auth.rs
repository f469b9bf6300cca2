//! Tokens and keys: golden ones are made and accepted, each forgery is refused for its own reason.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use headcount::auth::{
    Capability, CredentialError, Identity, Key, KeyError, Keyring, Material, MintError, Operation,
    SignatureAlgorithm, TOKEN_BYTES_MAX, TOKEN_TTL_MS_DEFAULT, TokenRules, mint,
};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

const NOW_MS: u64 = 1_782_955_142_000;
const NOW_S: u64 = NOW_MS / 1000;

fn fixture(name: &str) -> String {
    let path = format!("{}/tests/vectors/keys/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn capability(json: &str) -> Capability {
    json.parse().unwrap()
}

fn public_key(algorithm: SignatureAlgorithm, pem: &str) -> Material {
    Material::PublicKey { algorithm, pem: fixture(pem) }
}

fn jwks(algorithm: Option<SignatureAlgorithm>) -> Material {
    Material::Jwks { json: fixture("jwks.json"), algorithm }
}

#[test]
fn a_claim_says_what_the_operator_says_of_the_user_else_the_key() {
    let key = Key::from_text("demo.hs:sk_secret", Capability::all()).unwrap();
    let key = key.with_metadata(Some("{\"of\":\"key\"}".into()));
    let ring = Keyring::new(vec![key]).unwrap();
    let about = |ring: &Keyring, changes| {
        let identity = ring.verify_token(&hs256(payload(changes)), NOW_MS)?;
        Ok(identity.metadata.map(|text| text.to_string()))
    };
    let of_key = Some("{\"of\":\"key\"}".to_owned());
    assert_eq!(about(&ring, json!({})), Ok(of_key.clone()));
    assert_eq!(
        about(&ring, json!({"ism": {"b": 1, "a": [2]}})),
        Ok(Some(r#"{"b":1,"a":[2]}"#.into()))
    );
    assert_eq!(about(&ring, json!({"ism": "text"})), Err(CredentialError::Claims));
    assert_eq!(about(&ring, json!({"ism": {"a": "x".repeat(4096)}})), Err(CredentialError::Claims));
    let ring = ring.with_metadata_claim("about");
    assert_eq!(about(&ring, json!({"ism": "text"})), Ok(of_key));
    assert_eq!(about(&ring, json!({"about": {}})), Ok(Some("{}".into())));
    assert_eq!(ring.verify_key("demo.hs:sk_secret").unwrap().metadata().unwrap().len(), 12);
}

/// One key of each kind; the secret one is limited to `chat:*`.
fn keyring() -> Keyring {
    let key = |name, material| Key::new(name, material, Capability::all()).unwrap();
    let narrow = capability(r#"{"chat:*":["subscribe","publish"]}"#);
    Keyring::new(vec![
        Key::from_text("demo.hs:sk_secret", narrow).unwrap(),
        key("demo.rs", public_key(SignatureAlgorithm::Rs256, "rsa_public.pem")),
        key("demo.es", public_key(SignatureAlgorithm::Es256, "ec_public.pem")),
        key("other.issuer", jwks(None)),
    ])
    .unwrap()
}

fn secret() -> EncodingKey {
    EncodingKey::from_secret(b"sk_secret")
}

fn rsa() -> EncodingKey {
    EncodingKey::from_rsa_pem(fixture("rsa_private.pem").as_bytes()).unwrap()
}

fn ec() -> EncodingKey {
    EncodingKey::from_ec_pem(fixture("ec_private.pem").as_bytes()).unwrap()
}

fn base64(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

/// Signs an arbitrary header and payload.
fn sign(header: Value, payload: Value, key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", base64(&header), base64(&payload));
    let signature = crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn hs256(payload: Value) -> String {
    sign(json!({"alg": "HS256", "kid": "demo.hs"}), payload, &secret(), Algorithm::HS256)
}

/// A payload that is accepted, with some claims set; `null` removes one.
fn payload(changes: Value) -> Value {
    let mut claims = json!({"sub": "u", "iat": NOW_S, "exp": NOW_S + 60});
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            _ => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

fn verify(token: &str) -> Result<Identity, CredentialError> {
    keyring().verify_token(token, NOW_MS)
}

fn vectors() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/foony_auth.jsonl");
    let text = fs::read_to_string(path).unwrap();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|vector| vector["name"].as_str().unwrap().starts_with("jwt/")).collect()
}

#[test]
fn golden_tokens_are_minted_byte_for_byte_and_accepted() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 3);
    for vector in vectors {
        let (name, params) = (&vector["name"], &vector["params"]);
        let key = Key::from_text(vector["key"].as_str().unwrap(), Capability::all()).unwrap();
        let cap: Capability = serde_json::from_value(params["capability"].clone()).unwrap();
        let user = params["clientId"].as_str().unwrap();
        let now_ms = vector["nowMs"].as_u64().unwrap();
        let ttl_ms = params["ttlMs"].as_u64().unwrap_or(TOKEN_TTL_MS_DEFAULT);

        let token = mint(&key, user, &cap, now_ms, ttl_ms).unwrap();
        assert_eq!(token, vector["token"].as_str().unwrap(), "{name}");

        let app = key.app().clone();
        let ring = Keyring::new(vec![key]).unwrap();
        let identity = ring.verify_token(&token, now_ms).unwrap();
        let expires_at_ms = vector["payload"]["exp"].as_u64().unwrap() * 1000;
        assert_eq!((&*identity.user, &identity.grant.app), (user, &app), "{name}");
        assert_eq!(*identity.grant.capability, cap, "{name}");
        assert_eq!(identity.expires_at_wall_ms, Some(expires_at_ms), "{name}");
    }
}

#[test]
fn tokens_of_every_kind_of_key_are_accepted() {
    let cases = [
        ("demo.hs", Algorithm::HS256, secret(), "demo.hs", "demo"),
        ("demo.rs", Algorithm::RS256, rsa(), "demo.rs", "demo"),
        ("demo.es", Algorithm::ES256, ec(), "demo.es", "demo"),
        ("issuer-rsa", Algorithm::RS256, rsa(), "other.issuer", "other"),
        ("issuer-ec", Algorithm::ES256, ec(), "other.issuer", "other"),
    ];
    for (kid, algorithm, key, key_name, app) in cases {
        let header = json!({"alg": algorithm, "kid": kid});
        let identity = verify(&sign(header, payload(json!({})), &key, algorithm)).unwrap();
        let (grant, user) = (&identity.grant, &*identity.user);
        assert_eq!((grant.key_name.as_deref(), &*grant.app, user), (Some(key_name), app, "u"));
    }
}

fn forged(alg: &str, kid: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    sign(json!({"alg": alg, "kid": kid}), payload(json!({})), key, algorithm)
}

#[test]
fn a_token_may_not_choose_its_algorithm() {
    let public_pem = EncodingKey::from_secret(fixture("rsa_public.pem").as_bytes());
    let hs = |alg, kid| forged(alg, kid, &secret(), Algorithm::HS256);
    let confused = |kid| forged("HS256", kid, &public_pem, Algorithm::HS256);
    let rs = |kid| forged("RS256", kid, &rsa(), Algorithm::RS256);
    let es = |kid| forged("ES256", kid, &ec(), Algorithm::ES256);
    let unsigned = |alg: &str, kid: &str| {
        format!("{}.{}.", base64(&json!({"alg": alg, "kid": kid})), base64(&payload(json!({}))))
    };
    use CredentialError as Error;
    for (what, token, expected) in [
        ("alg none", unsigned("none", "demo.hs"), Error::Malformed),
        ("alg none, signed", hs("none", "demo.hs"), Error::Malformed),
        ("no signature", unsigned("HS256", "demo.hs"), Error::Signature),
        ("no signature, RSA", unsigned("RS256", "demo.rs"), Error::Signature),
        ("unknown alg", hs("HS1", "demo.hs"), Error::Malformed),
        ("lower case alg", hs("hs256", "demo.hs"), Error::Malformed),
        ("another alg of the family", hs("HS512", "demo.hs"), Error::Algorithm),
        ("public PEM as secret", confused("demo.rs"), Error::Algorithm),
        ("public PEM as secret, JWK set", confused("issuer-rsa"), Error::Algorithm),
        ("symmetric JWK", confused("issuer-oct"), Error::UnknownKey),
        ("RS256 for a secret key", rs("demo.hs"), Error::Algorithm),
        ("RS256 for an EC key", rs("demo.es"), Error::Algorithm),
        ("ES256 for an RSA key", es("demo.rs"), Error::Algorithm),
        ("ES256 for an RSA JWK", es("issuer-rsa"), Error::Algorithm),
        ("RS256 for an EC JWK", rs("issuer-ec"), Error::Algorithm),
        (
            "signed unlike it says",
            forged("ES256", "demo.es", &rsa(), Algorithm::RS256),
            Error::Signature,
        ),
        ("PSS for PKCS#1", forged("PS256", "demo.rs", &rsa(), Algorithm::PS256), Error::Algorithm),
    ] {
        assert_eq!(verify(&token), Err(expected), "{what}");
    }
}

#[test]
fn a_token_may_not_choose_its_key() {
    let rs = |kid| forged("RS256", kid, &rsa(), Algorithm::RS256);
    let hs = |header| sign(header, payload(json!({})), &secret(), Algorithm::HS256);
    let other = EncodingKey::from_secret(b"sk_other");
    use CredentialError as Error;
    for (what, token, expected) in [
        ("encryption JWK", rs("issuer-enc"), Error::UnknownKey),
        ("JWK of another algorithm", rs("issuer-rs512"), Error::UnknownKey),
        ("name of the JWK set", rs("other.issuer"), Error::UnknownKey),
        ("unknown kid", hs(json!({"alg": "HS256", "kid": "demo.nobody"})), Error::UnknownKey),
        ("empty kid", hs(json!({"alg": "HS256", "kid": ""})), Error::UnknownKey),
        ("missing kid", hs(json!({"alg": "HS256"})), Error::MissingKeyId),
        ("null kid", hs(json!({"alg": "HS256", "kid": null})), Error::MissingKeyId),
        ("kid of another type", hs(json!({"alg": "HS256", "kid": 1})), Error::Malformed),
        ("two kids", hs_twice(), Error::Malformed),
        ("no alg", hs(json!({"kid": "demo.hs"})), Error::Malformed),
        (
            "critical extension",
            hs(json!({"alg": "HS256", "kid": "demo.hs", "crit": ["x"]})),
            Error::Malformed,
        ),
        (
            "key in the header",
            hs(json!({"alg": "HS256", "jwk": {"kty": "oct", "k": "c2tfc2VjcmV0"}})),
            Error::MissingKeyId,
        ),
        ("wrong secret", forged("HS256", "demo.hs", &other, Algorithm::HS256), Error::Signature),
    ] {
        assert_eq!(verify(&token), Err(expected), "{what}");
    }
}

/// A header that names two keys.
fn hs_twice() -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"demo.rs","kid":"demo.hs"}"#);
    let message = format!("{header}.{}", base64(&payload(json!({}))));
    let signature = crypto::sign(message.as_bytes(), &secret(), Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

#[test]
fn times_are_checked_against_the_callers_clock() {
    use CredentialError::*;
    for (changes, expected) in [
        (json!({"exp": NOW_S + 1}), Ok(())),
        (json!({"exp": NOW_S as f64 + 0.5}), Ok(())),
        (json!({"exp": NOW_S}), Err(Expired)),
        (json!({"exp": NOW_S - 1}), Err(Expired)),
        (json!({"exp": 0}), Err(Expired)),
        (json!({"exp": -5}), Err(Expired)),
        (json!({"exp": null}), Err(NoExpiry)),
        (json!({"exp": "9999999999"}), Err(Claims)),
        (json!({"exp": 1e300}), Ok(())),
        (json!({"nbf": NOW_S + 60}), Ok(())),
        (json!({"nbf": NOW_S + 61}), Err(NotYetValid)),
        (json!({"iat": NOW_S + 60}), Ok(())),
        (json!({"iat": NOW_S + 61}), Err(NotYetValid)),
        (json!({"iat": null}), Ok(())),
        (json!({"iat": "then"}), Err(Claims)),
    ] {
        let outcome = verify(&hs256(payload(changes.clone()))).map(|_| ());
        assert_eq!(outcome, expected, "{changes}");
    }
    let token = hs256(payload(json!({})));
    assert!(keyring().verify_token(&token, NOW_MS + 59_999).is_ok());
    assert_eq!(keyring().verify_token(&token, NOW_MS + 60_000), Err(Expired));
}

#[test]
fn the_subject_is_the_user_and_must_be_one() {
    use CredentialError::*;
    for (changes, expected) in [
        (json!({"sub": "x".repeat(255)}), Ok(())),
        (json!({"sub": "x".repeat(256)}), Err(Subject)),
        (json!({"sub": ""}), Err(Subject)),
        (json!({"sub": null}), Err(Subject)),
        (json!({"sub": 7}), Err(Claims)),
        (json!({"sub": ["u"]}), Err(Claims)),
    ] {
        let outcome = verify(&hs256(payload(changes.clone()))).map(|_| ());
        assert_eq!(outcome, expected, "{changes}");
    }
}

#[test]
fn a_token_grants_no_more_than_its_key() {
    use CredentialError::*;
    for (cap, expected) in [
        (json!(r#"{"chat:a":["publish"]}"#), Ok(())),
        (json!({"chat:a:*": ["publish"]}), Ok(())),
        (json!({"chat:*": ["subscribe", "publish"]}), Ok(())),
        (json!({}), Ok(())),
        (json!({"chat:*": ["*"]}), Err(ExceedsKey)),
        (json!({"*": ["publish"]}), Err(ExceedsKey)),
        (json!({"chat:a": ["publish"], "game": ["publish"]}), Err(ExceedsKey)),
        (json!("chat"), Err(Claims)),
        (json!(""), Err(Claims)),
        (json!(r#"{"chat:*":["fly"]}"#), Err(Claims)),
        (json!(["*"]), Err(Claims)),
    ] {
        let outcome = verify(&hs256(payload(json!({"cap": cap})))).map(|_| ());
        assert_eq!(outcome, expected, "{cap}");
    }
    let without = verify(&hs256(payload(json!({})))).unwrap();
    assert!(without.grant.capability.allows("chat:a", Operation::Publish).is_ok());
    assert!(without.grant.capability.allows("chat:a", Operation::History).is_err());
}

#[test]
fn a_changed_byte_anywhere_refuses_the_token() {
    let ring = keyring();
    for token in [
        hs256(payload(json!({}))),
        sign(
            json!({"alg": "RS256", "kid": "demo.rs"}),
            payload(json!({})),
            &rsa(),
            Algorithm::RS256,
        ),
        sign(
            json!({"alg": "ES256", "kid": "demo.es"}),
            payload(json!({})),
            &ec(),
            Algorithm::ES256,
        ),
    ] {
        assert!(ring.verify_token(&token, NOW_MS).is_ok());
        for position in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[position] = if bytes[position] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(bytes).unwrap();
            assert!(ring.verify_token(&forged, NOW_MS).is_err(), "byte {position} of {token}");
            assert!(ring.verify_token(&token[..position], NOW_MS).is_err(), "cut at {position}");
        }
    }
}

#[test]
fn garbage_and_oversized_tokens_are_refused() {
    let deep = URL_SAFE_NO_PAD.encode("[".repeat(4000));
    for garbage in ["", ".", "..", "...", "a.b.c", "é.é.é", "Bearer x", &deep, &format!("{deep}..")]
    {
        assert_eq!(verify(garbage), Err(CredentialError::Malformed), "{garbage:.20}");
    }
    let header = base64(&json!({"alg": "HS256", "kid": "demo.hs"}));
    assert!(verify(&format!("{header}.{deep}.AAAA")).is_err());
    let large = hs256(payload(json!({"pad": "x".repeat(TOKEN_BYTES_MAX)})));
    assert_eq!(verify(&large), Err(CredentialError::TooLong));
    assert!(verify(&hs256(payload(json!({"pad": "x".repeat(5000)})))).is_ok());
}

#[test]
fn issuer_and_audience_are_checked_when_configured() {
    let ring = |issuer: Option<&str>, audience: Option<&str>| {
        let rules =
            TokenRules { issuer: issuer.map(Into::into), audience: audience.map(Into::into) };
        let key = Key::from_text("demo.hs:sk_secret", Capability::all()).unwrap();
        Keyring::new(vec![key.with_rules(rules)]).unwrap()
    };
    for (issuer, audience, changes, accepted) in [
        (Some("https://id"), None, json!({"iss": "https://id"}), true),
        (Some("https://id"), None, json!({"iss": "https://evil"}), false),
        (Some("https://id"), None, json!({}), false),
        (None, Some("headcount"), json!({"aud": "headcount"}), true),
        (None, Some("headcount"), json!({"aud": ["x", "headcount"]}), true),
        (None, Some("headcount"), json!({"aud": "billing"}), false),
        (None, Some("headcount"), json!({"aud": 1}), false),
        (None, Some("headcount"), json!({}), false),
        (None, None, json!({"iss": "anybody"}), true),
        (None, None, json!({"aud": "billing"}), false),
    ] {
        let outcome = ring(issuer, audience).verify_token(&hs256(payload(changes.clone())), NOW_MS);
        assert_eq!(outcome.is_ok(), accepted, "{issuer:?} {audience:?} {changes}");
        assert!(matches!(outcome, Ok(_) | Err(CredentialError::Issuer)));
    }
}

#[test]
fn a_key_is_presented_as_name_and_secret() {
    let ring = keyring();
    let key = ring.verify_key("demo.hs:sk_secret").unwrap();
    let identity = key.identity("someone").unwrap();
    assert_eq!((&*identity.grant.app, &*identity.user), ("demo", "someone"));
    assert_eq!(identity.expires_at_wall_ms, None);
    assert_eq!(key.identity(""), Err(CredentialError::Subject));
    assert_eq!(key.identity(&"x".repeat(256)), Err(CredentialError::Subject));

    use CredentialError::*;
    let decoy = "\0".repeat(256);
    for (text, expected) in [
        ("demo.hs:sk_secreT".to_owned(), Signature),
        ("demo.hs:sk_secret ".to_owned(), Signature),
        ("demo.hs:".to_owned(), Signature),
        ("demo.rs:".to_owned(), Signature),
        (format!("demo.rs:{decoy}"), Signature),
        (format!("demo.nobody:{decoy}"), UnknownKey),
        ("demo.nobody:sk_secret".to_owned(), UnknownKey),
        ("sk_secret".to_owned(), Malformed),
        (String::new(), Malformed),
        (format!("demo.hs:{}", "x".repeat(257)), TooLong),
    ] {
        assert_eq!(ring.verify_key(&text).unwrap_err(), expected, "{text}");
    }
}

#[test]
fn keys_that_could_never_verify_are_refused_at_the_start() {
    let refused = |material| {
        let key = Key::new("demo.kid", material, Capability::all()).unwrap();
        Keyring::new(vec![key]).unwrap_err().1
    };
    use SignatureAlgorithm::{Es256, Rs256};
    assert_eq!(refused(public_key(Rs256, "ec_public.pem")), KeyError::PublicKey(Rs256));
    assert_eq!(refused(public_key(Es256, "rsa_public.pem")), KeyError::PublicKey(Es256));
    assert_eq!(refused(public_key(Es256, "ec_p384_public.pem")), KeyError::PublicKey(Es256));
    assert_eq!(refused(public_key(Rs256, "rsa_private.pem")), KeyError::PublicKey(Rs256));
    assert_eq!(refused(public_key(Es256, "ec_private.pem")), KeyError::PublicKey(Es256));
    assert_eq!(refused(public_key(Rs256, "jwks.json")), KeyError::PublicKey(Rs256));
    assert_eq!(refused(public_key(Rs256, "rsa_1024_public.pem")), KeyError::RsaTooShort);
    let jwks = |json: &str| Material::Jwks { json: json.to_owned(), algorithm: None };
    assert_eq!(refused(jwks(r#"{"keys":[]}"#)), KeyError::JwksEmpty);
    assert!(matches!(refused(jwks("no json")), KeyError::Jwks(_)));
}

#[test]
fn two_keys_never_share_a_key_id() {
    let hs = |name| Key::from_text(&format!("{name}:s"), Capability::all()).unwrap();
    let set = |name| Key::new(name, jwks(None), Capability::all()).unwrap();
    let duplicate = |kid: &str| KeyError::Duplicate(kid.to_owned());
    for (keys, kid) in [
        (vec![hs("a.k"), hs("a.k")], "a.k"),
        (vec![set("a.k"), hs("a.k")], "a.k"),
        (vec![set("a.k"), set("b.k")], "issuer-rsa"),
    ] {
        assert_eq!(Keyring::new(keys).unwrap_err().1, duplicate(kid));
    }
}

#[test]
fn a_jwk_set_can_be_narrowed_to_one_algorithm() {
    let key = Key::new("a.k", jwks(Some(SignatureAlgorithm::Es256)), Capability::all()).unwrap();
    let ring = Keyring::new(vec![key]).unwrap();
    let token = |alg: Algorithm, kid, key| {
        sign(json!({"alg": alg, "kid": kid}), payload(json!({})), &key, alg)
    };
    assert!(ring.verify_token(&token(Algorithm::ES256, "issuer-ec", ec()), NOW_MS).is_ok());
    assert_eq!(
        ring.verify_token(&token(Algorithm::RS256, "issuer-rsa", rsa()), NOW_MS),
        Err(CredentialError::UnknownKey)
    );
}

#[test]
fn nothing_is_minted_that_would_be_refused() {
    let narrow = capability(r#"{"chat:*":["publish"]}"#);
    let key = Key::from_text("demo.kid:s", narrow.clone()).unwrap();
    let mint_for = |user: &str, cap: &Capability| mint(&key, user, cap, NOW_MS, 1000);
    assert!(mint_for("u", &narrow).is_ok());
    assert_eq!(mint_for("u", &Capability::all()), Err(MintError::ExceedsKey));
    assert_eq!(mint_for("", &narrow), Err(MintError::Subject));
    let issuer = Key::new("a.k", jwks(None), Capability::all()).unwrap();
    assert_eq!(mint(&issuer, "u", &narrow, NOW_MS, 1000), Err(MintError::NoSecret));
}
