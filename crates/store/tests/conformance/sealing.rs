//! What must not be readable on the disk, and which key opens it.

use std::fs;

use milecastle_model::{Key, Kind};
use milecastle_store::{DEFAULT_GROUP, KeySource, Op, OpenError, Probe, Put, SealingKey, UniqueKey, open, reseal};

use crate::home::{Home, ann, body, on_both, publish, put, revision, route};

on_both!(
    secrets_are_not_on_the_disk,
    sealed_bodies_do_not_open_elsewhere,
    what_the_query_of_a_probe_says_is_sealed,
    another_key_does_not_open_the_store,
    the_sealing_key_is_replaced_beside_whoever_has_the_store_open,
    secrets_are_made_once,
);

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn secrets_are_not_on_the_disk(home: Home) {
    let store = home.open().await;
    let ssl = Key::new(Kind::Ssl, "1");
    let sealed = |word: &str| {
        let lookup = UniqueKey { plugin: "key-auth".to_owned(), value: b"lookup-marker".to_vec() };
        Op::Put(Put { sealed: true, keys: vec![lookup], ..Put::new(ssl.clone(), body(word)) })
    };
    revision(&store, vec![sealed("first-marker"), put(route("1"), "plain-marker")]).await;
    revision(&store, vec![sealed("second-marker")]).await;
    store.secret_put("ca", b"secret-marker").await.unwrap();
    assert_eq!(store.secret_get("ca").await.unwrap().unwrap().expose(), b"secret-marker");
    assert_eq!(store.load(DEFAULT_GROUP).await.unwrap().objects[1].body, body("second-marker"));
    let disk = home.on_disk();
    for (marker, readable) in
        [("plain", true), ("first", false), ("second", false), ("secret", false), ("lookup", false)]
    {
        let marker = format!("{marker}-marker");
        let found = contains(&disk, marker.as_bytes()) || contains(&disk, hex(marker.as_bytes()).as_bytes());
        assert_eq!(found, readable, "{marker}");
    }
}

async fn sealed_bodies_do_not_open_elsewhere(home: Home) {
    let store = home.open().await;
    let sealed = |id| Op::Put(Put { sealed: true, ..Put::new(Key::new(Kind::Ssl, id), body(id)) });
    revision(&store, vec![sealed("1"), sealed("2")]).await;
    home.sql("UPDATE resource SET body = (SELECT body FROM resource WHERE id = '1') WHERE id = '2'").await;
    let error = store.load(DEFAULT_GROUP).await.unwrap_err().to_string();
    assert!(error.contains("altered or moved"), "{error}");
}

async fn what_the_query_of_a_probe_says_is_sealed(home: Home) {
    let store = home.open().await;
    let put = async |id: &str, url: &str| {
        let probe = Probe { id: id.to_owned(), name: id.to_owned(), url: url.to_owned() };
        assert!(store.by(ann()).probe_put(&probe, 2).await.unwrap());
        assert_eq!(store.probe_get(id).await.unwrap(), Some(probe));
    };
    put("a", "http://a.test/?token=query-marker").await;
    put("b", "http://a.test/path-marker").await;
    let disk = home.on_disk();
    assert!(contains(&disk, b"path-marker") && !contains(&disk, b"query-marker"));
    // What a build wrote that seals none.
    home.sql("UPDATE probe SET url = 'http://a.test/?token=before' WHERE id = 'b'").await;
    let urls: Vec<_> = store.probe_list().await.unwrap().into_iter().map(|probe| probe.url).collect();
    assert_eq!(urls, ["http://a.test/?token=query-marker", "http://a.test/?token=before"]);
    home.sql("UPDATE probe SET url = (SELECT url FROM probe WHERE id = 'a') WHERE id = 'b'").await;
    let error = store.probe_get("b").await.unwrap_err().to_string();
    assert!(error.contains("altered or moved"), "{error}");
}

async fn another_key_does_not_open_the_store(home: Home) {
    home.open().await.close().await;
    let KeySource::File(path) = &home.key else { unreachable!("tests seal with a file") };
    let text = fs::read_to_string(path).unwrap();
    let right = SealingKey::from_text(&text).unwrap();

    let wrong = KeySource::Key(SealingKey::generate());
    let Err(refused) = open(&home.dsn, &wrong).await else { panic!("a wrong key opened the store") };
    assert!(matches!(&refused, OpenError::WrongSealingKey { sealed_with, .. } if *sealed_with == right.fingerprint()));
    assert!(refused.to_string().contains("give this replica the key file of the others"));

    let elsewhere = home.path("none.key");
    let Err(refused) = open(&home.dsn, &KeySource::File(elsewhere.clone())).await else {
        panic!("no key opened the store")
    };
    assert!(matches!(refused, OpenError::MissingSealingKey { .. }), "{refused}");
    assert!(!elsewhere.exists(), "no useless key is made");

    let store = open(&home.dsn, &KeySource::Key(right)).await.unwrap();
    publish(&store, vec![put(route("1"), "a")]).await.unwrap();
}

async fn the_sealing_key_is_replaced_beside_whoever_has_the_store_open(home: Home) {
    let running = home.open().await;
    running.secret_put("ca", b"before").await.unwrap();
    let path = home.path("next.key");
    fs::write(&path, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
    let next = SealingKey::from_text(&fs::read_to_string(&path).unwrap()).unwrap();
    let both = KeySource::Replaced { by: Box::new(home.key.clone()), next: path.clone() };
    let secret = async |key: &KeySource| {
        let store = open(&home.dsn, key).await?;
        let secret = store.secret_get("ca").await?.unwrap();
        Ok::<_, OpenError>(String::from_utf8(secret.expose().to_vec()).unwrap())
    };
    assert_eq!(secret(&both).await.unwrap(), "before");
    assert!(reseal(&home.dsn, &home.key, &next).await.unwrap());
    running.secret_put("ca", b"while it ran").await.unwrap();
    for key in [&both, &KeySource::File(path)] {
        assert_eq!(secret(key).await.unwrap(), "while it ran");
    }
    assert!(matches!(secret(&home.key).await, Err(OpenError::WrongSealingKey { .. })));
    // Whoever repeats it, for he has not seen how it ended, does no harm.
    assert!(!reseal(&home.dsn, &home.key, &next).await.unwrap());
    let other = SealingKey::generate();
    assert!(matches!(reseal(&home.dsn, &home.key, &other).await, Err(OpenError::WrongSealingKey { .. })));
}

async fn secrets_are_made_once(home: Home) {
    let (one, other) = (home.open().await, home.open().await);
    assert!(one.secret_get("ca").await.unwrap().is_none());
    let (a, b) = tokio::join!(
        one.secret_get_or_create("ca", || b"a".to_vec()),
        other.secret_get_or_create("ca", || b"b".to_vec())
    );
    let made = a.unwrap();
    assert_eq!(made, b.unwrap());
    assert_eq!(one.secret_get_or_create("ca", || unreachable!("it exists")).await.unwrap(), made);
    assert_eq!(format!("{made:?}"), "SecretBytes(..)");
}
