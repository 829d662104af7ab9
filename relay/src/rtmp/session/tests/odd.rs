//! Commands as encoders really send them: all of these lead to the same line, or to an answer that they understand.

use super::*;
use crate::rtmp::vectors;

/// `connect` with this object, then `publish` of "key": hexadecimal AMF behind the names and numbers.
fn asked(object: &str, kind_of: u8, before: &[u8], publish: &str) -> Vec<Event> {
    let mut encoder = Encoder::default();
    encoder.handshake();
    let body = |name: &str, rest: &str| -> Vec<u8> {
        let mut body = vec![2, 0, name.len() as u8];
        body.extend(name.as_bytes());
        body.extend(vectors::bytes(rest));
        [before, &body].concat()
    };
    for (name, rest) in [
        ("connect", format!("00 3ff0000000000000 {object}")),
        ("publish", publish.to_owned()),
    ] {
        encoder.send(3, &tag(kind_of, &body(name, &rest)));
    }
    let mut session = Session::new(0, WITHIN_US, 1);
    drive(&mut session, &mut encoder.bytes).0
}

/// Hexadecimal of text behind its length of two bytes.
fn text(text: &str) -> String {
    let digits: Vec<_> = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{:04x}{}", text.len(), digits.concat())
}

#[test]
fn odd_connects_and_publishes_lead_to_the_same_line() {
    let app = |name: &str, value: &str| format!("{} 02{}", text(name), text(value));
    let plain = format!("03 {} 000009", app("app", "truck1"));
    let publish = format!("00 0000000000000000 05 02{}", text("key"));
    // (what, object of connect, publish behind its name)
    for (what, object, publish) in [
        (
            "plain, transaction 0, no type",
            plain.clone(),
            publish.clone(),
        ),
        (
            "an ECMA array with a wrong count",
            format!("08 000000ff {} 000009", app("app", "truck1")),
            publish.clone(),
        ),
        (
            "an object without its end",
            format!("03 {}", app("app", "truck1")),
            publish.clone(),
        ),
        (
            "a typed object",
            format!("10 {} {} 000009", text("Connect"), app("app", "truck1")),
            publish.clone(),
        ),
        (
            "no app but a URL in quotes, with an IPv6 address",
            format!(
                "03 {} 000009",
                app("tcUrl", "\"rtmp://[2001:db8::1]:1935/truck1\"")
            ),
            publish.clone(),
        ),
        (
            "the URL's name in lower case",
            format!(
                "03 {} 000009",
                app("tcurl", "rtmps://relay.example/truck1/")
            ),
            publish.clone(),
        ),
        (
            "an AMF3 object in AMF0",
            "11 0a0b01 07617070 060d747275636b31 01".to_owned(),
            publish.clone(),
        ),
        (
            "AMF3 text as the stream",
            plain.clone(),
            "00 4014000000000000 05 11 06076b6579".to_owned(),
        ),
        (
            "slashes, and a type in capitals",
            format!("03 {} 000009", app("app", "Truck1/")),
            format!(
                "00 4014000000000000 05 02{} 02{}",
                text("key/"),
                text("LIVE")
            ),
        ),
        (
            "the key in the application, an empty stream",
            format!("03 {} 000009", app("app", "truck1/key")),
            format!("00 4014000000000000 05 02{}", text("")),
        ),
        (
            "the key in the application, no stream at all",
            format!("03 {} 000009", app("app", "truck1/key")),
            "00 4014000000000000 05".to_owned(),
        ),
        (
            "a query behind the key",
            plain.clone(),
            format!(
                "00 4014000000000000 05 02{}",
                text("key?clientConfigId=7&a=b")
            ),
        ),
        (
            "escapes",
            plain.clone(),
            format!("00 4014000000000000 05 02{}", text("%6bey%20")),
        ),
    ] {
        for (kind_of, before) in [(kind::COMMAND_AMF0, &[][..]), (kind::COMMAND_AMF3, &[0])] {
            let events = asked(&object, kind_of, before, &publish);
            let [Event::PublishRequested(request)] = &events[..] else {
                panic!("{what}: {events:?}");
            };
            let found = (request.studio.as_str(), request.key.expose());
            assert_eq!(found, ("truck1", "key"), "{what}, kind {kind_of}");
        }
    }
}

#[test]
fn an_encoder_that_asks_learns_what_of_enhanced_rtmp_is_understood() {
    let answer = |asked: &[(&str, Value)]| {
        let mut encoder = Encoder::default();
        encoder.handshake();
        let mut object = vec![("app".to_owned(), Value::string("truck1"))];
        object.extend(
            asked
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone())),
        );
        let command = Command {
            name: "connect".into(),
            transaction: 1.0,
            object: Value::Object(object),
            arguments: vec![],
        };
        encoder.send(3, &command.to_message(0));
        let mut session = Session::new(0, WITHIN_US, 1);
        let (_, mut replies) = drive(&mut session, &mut encoder.bytes);
        replies.remove(0).object
    };
    let plain = answer(&[("videoFunction", Value::Number(1.0))]);
    assert_eq!(plain.get("fourCcList"), None, "others are not bothered");
    assert!(plain.get("fmsVer").is_some());
    for (key, value) in [
        ("fourCcList", Value::Array(vec![Value::string("hvc1")])),
        (
            "videoFourCcInfoMap",
            Value::object([("*", Value::Number(4.0))]),
        ),
        ("capsEx", Value::Number(15.0)),
    ] {
        let properties = answer(&[(key, value)]);
        let Some(Value::Array(list)) = properties.get("fourCcList") else {
            panic!("{key}: no list");
        };
        let list: Vec<_> = list.iter().filter_map(Value::as_str).collect();
        assert_eq!(
            list,
            [
                "avc1", "hvc1", "av01", "vp09", "mp4a", "Opus", "fLaC", "ac-3", "ec-3", ".mp3"
            ]
        );
        let can_forward = |map: &str, code: &str| {
            let map = properties.get(map).and_then(|map| map.get(code));
            map.and_then(Value::as_number) == Some(4.0)
        };
        assert!(
            can_forward("videoFourCcInfoMap", "hvc1") && can_forward("audioFourCcInfoMap", "Opus")
        );
        assert_eq!(properties.get("capsEx"), Some(&Value::Number(14.0)));
        assert_eq!(properties.get("videoFunction"), Some(&Value::Number(6.0)));
    }
}

/// As nginx pushes, and as a battery that fails does: nothing that was not sent is waited for.
#[test]
fn commands_that_never_come_are_not_missed() {
    let mut encoder = Encoder::default();
    encoder.handshake();
    encoder.connect("truck1");
    encoder.call("publish", 0.0, &["key"]);
    let mut session = Session::new(0, WITHIN_US, 1);
    let (events, _) = drive(&mut session, &mut encoder.bytes);
    assert_eq!(events, [requested("truck1", "key")]);
    session.accept_publish();
    encoder.media();
    encoder.call("thatNobodyKnows", 9.0, &["x"]);
    encoder.call("thatNobodyKnows", 0.0, &["x"]);
    encoder.media();
    let (events, replies) = drive(&mut session, &mut encoder.bytes);
    assert_eq!(units(&events), 4);
    let calls: Vec<_> = replies
        .iter()
        .map(|reply| (reply.name.as_str(), reply.transaction))
        .collect();
    assert_eq!(calls, [("onStatus", 0.0), ("_error", 9.0)]);
}

#[test]
fn timecode_becomes_a_unit_of_data() {
    let mut encoder = publishing_encoder();
    let mut session = Session::new(0, WITHIN_US, 1);
    drive(&mut session, &mut encoder.bytes);
    session.accept_publish();
    let mut body = BytesMut::new();
    for value in [
        Value::string("onFI"),
        Value::object([("st", Value::string("10:11:12:13"))]),
    ] {
        crate::rtmp::amf0::encode(&value, &mut body);
    }
    encoder.send(4, &tag(kind::DATA_AMF0, &body));
    let (events, _) = drive(&mut session, &mut encoder.bytes);
    let [Event::Unit(unit)] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(unit.payload, &br#"["onFI",{"st":"10:11:12:13"}]"#[..]);
}
