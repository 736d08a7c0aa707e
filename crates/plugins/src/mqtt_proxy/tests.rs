use super::STREAM;
use super::connect::{Connect, Incomplete};
use milecastle_matching::{Lookup, VarName};
use milecastle_plugin_api::stream::Preread;
use milecastle_plugin_api::testing::Setup;
use serde_json::{Value, json};

/// A packet CONNECT, with properties if its level has them.
fn connect(name: &[u8], level: u8, properties: &[u8], client: &[u8]) -> Vec<u8> {
    let short = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let mut body = [short(name), vec![level, 2, 0, 60]].concat();
    if level >= 5 {
        body.push(properties.len().try_into().unwrap());
        body.extend(properties);
    }
    body.extend(short(client));
    body.extend(short(b"what follows"));
    let mut packet = vec![0x10];
    let mut left = body.len();
    loop {
        let more = left > 127;
        packet.push(u8::try_from(left % 128).unwrap() | if more { 0x80 } else { 0 });
        left /= 128;
        if !more {
            return [packet, body].concat();
        }
    }
}

fn begin(level: u8, bytes: &[u8]) -> (Preread, Option<String>) {
    let config = json!({ "mqtt-proxy": { "protocol_name": "MQTT", "protocol_level": level } });
    let (session, passed) = Setup::new(&[&STREAM]).sessions(config).begin_with("10.0.0.1", bytes);
    let id = session.cx.var(&VarName::parse("mqtt_client_id")).map(|value| value.text().into_owned());
    assert_eq!(&*session.cx.first, bytes, "nothing is consumed");
    (passed, id)
}

const REFUSED: Preread = Preread::Closed { status: 400 };

#[test]
fn the_identifier_of_a_client_becomes_a_variable() {
    assert_eq!(begin(4, &connect(b"MQTT", 4, &[], b"sensor-1")), (Preread::Passed, Some("sensor-1".into())));
    assert_eq!(begin(5, &connect(b"MQTT", 5, &[0x11, 0, 0, 0, 1], b"s")), (Preread::Passed, Some("s".into())));
    assert_eq!(begin(4, &connect(b"MQTT", 4, &[], b"")), (Preread::Passed, None));
    let long = vec![b'x'; 20_000];
    assert_eq!(begin(4, &connect(b"MQTT", 4, &[], &long)).1.unwrap().len(), 20_000);
}

#[test]
fn what_begins_otherwise_is_closed() {
    for bytes in [
        connect(b"MQTT", 5, &[], b"s"),
        connect(b"MQIsdp", 4, &[], b"s"),
        connect(b"MQTT", 4, &[], &[0xFF]),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0x10, 0xFF, 0xFF, 0xFF, 0xFF, 1],
        vec![0x10, 3, 0, 4, b'M'],
        vec![0x11, 2, 0, 0],
    ] {
        assert_eq!(begin(4, &bytes).0, REFUSED, "{}", bytes.escape_ascii());
    }
    let mut reserved = connect(b"MQTT", 4, &[], b"s");
    reserved[9] |= 1;
    assert_eq!(begin(4, &reserved).0, REFUSED);
}

#[test]
fn more_is_asked_for_until_the_identifier_is_there() {
    for (level, properties) in [(4, &[][..]), (5, &[0x11, 0, 0, 0, 1][..])] {
        let packet = connect(b"MQTT", level, properties, b"sensor-1");
        let enough = packet.len() - b"what follows".len() - 2;
        for end in 0..packet.len() {
            let read = Connect::read(&packet[..end]);
            assert_eq!(read == Err(Incomplete::More), end < enough, "{end}: {read:?}");
        }
    }
}

#[test]
fn faults_are_found_on_write() {
    let check = |config: Value, path: &str| {
        let faults = Setup::new(&[&STREAM]).faults(json!({ "mqtt-proxy": config }));
        assert!(faults.iter().any(|fault| fault.path == format!("/mqtt-proxy{path}")), "{config}: {faults:?}");
    };
    check(json!({}), "/protocol_level");
    check(json!({ "protocol_level": "4" }), "/protocol_level");
    check(json!({ "protocol_level": 4, "protocol_name": 1 }), "/protocol_name");
}
