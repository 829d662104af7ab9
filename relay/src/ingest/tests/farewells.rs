//! Who is asked to leave, who is slowed down, and who is not.

use super::*;

#[tokio::test]
async fn a_relay_that_is_drained_asks_those_that_understand_it_and_takes_them_back() {
    let mut relay = Relay::start(LIMITS).await;
    for (announces, says) in [
        (
            ("supportsGoAway", Value::Boolean(true)),
            "\x02\0\0\0\0\0\x04\x20\0\0\0\0\0\0\0\0",
        ),
        (
            ("capsEx", Value::Number(1.0)),
            "NetConnection.Connect.ReconnectRequest",
        ),
    ] {
        let mut relay = Relay::start(LIMITS).await;
        let mut phone = Phone::connect(&relay).await;
        phone.announces.push(announces.clone());
        phone.publish("truck1", "front-camera").await;
        assert!(phone.is_let_in().await);
        relay.registry.drain(Some(Duration::from_mins(1)));
        assert!(phone.read_until(says).await, "{announces:?}");
        phone.media(0).await;
        relay.studio.wait_units(2).await;
        drop(phone);
        relay.studio.wait_text("ends: the encoder").await;

        let mut back = Phone::connect(&relay).await;
        back.publish("truck1", "front-camera").await;
        assert!(back.is_let_in().await, "there is no other relay");
        let mut other = Phone::connect(&relay).await;
        other.announces.push(("flashVer", Value::string("another")));
        other.publish("truck1", "front-camera").await;
        assert!(!other.is_let_in().await);
        assert!(relay.metrics().contains("reason=\"draining\"} 1"));
        relay.stop().await;
    }
    let mut plain = Phone::connect(&relay).await;
    plain.publish("truck1", "front-camera").await;
    assert!(plain.is_let_in().await);
    relay.registry.drain(None);
    plain.media(0).await;
    relay.studio.wait_units(2).await;
    relay.stop().await;
    let rest = plain.read_to_end().await;
    let said = |text: &str| rest.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(!said("\x02\0\0\0\0\0\x04\x20") && !said("ReconnectRequest"));
}

/// Five typing errors, and then the right key: from the same address, while a sixth error waits for its answer.
#[tokio::test]
async fn the_right_key_gets_in_at_once_after_any_number_of_wrong_ones() {
    let mut relay = Relay::start(LIMITS).await;
    let mut wrong = Vec::new();
    for _ in 0..6 {
        let mut phone = Phone::connect(&relay).await;
        phone.publish("truck1", "wrong-key").await;
        wrong.push(phone);
    }
    let asked = Instant::now();
    let mut phone = Phone::connect(&relay).await;
    phone.publish("truck1", "front-camera").await;
    assert!(phone.is_let_in().await);
    assert!(asked.elapsed() < Duration::from_millis(500));
    let mut last = wrong.pop().unwrap();
    for mut phone in wrong {
        assert!(phone.read_until("BadName").await);
    }
    let first_five = asked.elapsed();
    assert!(last.read_until("BadName").await);
    let sixth = asked.elapsed();
    assert!(first_five < Duration::from_millis(1_500), "{first_five:?}");
    assert!(sixth > Duration::from_millis(1_700), "{sixth:?}");
    relay.stop().await;
}

/// A full share of guesses that wait for their answers.
#[tokio::test]
async fn wrong_keys_that_fill_an_addresss_share_make_room_for_the_right_one() {
    let limits = Limits {
        connections_per_address: 4,
        ..LIMITS
    };
    let mut relay = Relay::start(limits).await;
    let mut wrong = Vec::new();
    for _ in 0..4 {
        let mut phone = Phone::connect(&relay).await;
        phone.publish("truck1", "wrong-key").await;
        wrong.push(phone);
    }
    // Until they are read, and wait for their answers: of that, nothing is to be seen from outside.
    time::sleep(Duration::from_millis(100)).await;
    let mut phone = Phone::connect(&relay).await;
    phone.publish("truck1", "front-camera").await;
    assert!(phone.is_let_in().await);
    relay.stop().await;
}

#[tokio::test]
async fn a_publisher_that_sends_too_much_is_read_more_slowly_and_loses_nothing() {
    let limits = Limits {
        bytes_per_second: 200_000,
        ..LIMITS
    };
    let mut relay = Relay::start(limits).await;
    let mut phone = Phone::connect(&relay).await;
    phone.publish("truck1", "front-camera").await;
    assert!(phone.is_let_in().await);
    phone.media(0).await;
    let begun = Instant::now();
    for number in 0..40 {
        let mut body = b"\x27\x01\0\0\0\0\0\x27\x06\x41".to_vec();
        body.resize(body.len() + 0x2706 - 1, 0);
        phone
            .send(&Message {
                kind: kind::VIDEO,
                stream: 1,
                timestamp: number * 10,
                payload: body.into(),
            })
            .await;
    }
    // 400 kB: one second's worth at once, and a second more for the rest; some of it is read before the first is counted.
    relay.studio.wait_units(42).await;
    let took = begun.elapsed();
    assert!(
        (Duration::from_millis(500)..Duration::from_secs(10)).contains(&took),
        "{took:?}"
    );
    relay.stop().await;
}

/// Each change of a codec is news for the studio and a line in the log; one with every message is neither.
#[tokio::test]
async fn an_encoder_that_changes_its_codec_with_every_message_is_told_of_now_and_then() {
    let mut relay = Relay::start(LIMITS).await;
    let mut phone = Phone::connect(&relay).await;
    phone.publish("truck1", "front-camera").await;
    assert!(phone.is_let_in().await);
    let codecs: [&[u8]; 2] = [b"\x90vp08", b"\x90vvc1"];
    let last: [&[u8]; 1] = [AVCC_TAG];
    for body in codecs.into_iter().cycle().take(500).chain(last) {
        phone
            .send(&Message {
                kind: kind::VIDEO,
                stream: 1,
                timestamp: 0,
                payload: body.to_vec().into(),
            })
            .await;
    }
    relay.studio.wait_text("tracks: H.264").await;
    let texts = relay.studio.texts.lock().unwrap().clone();
    let told = texts.iter().filter(|text| text.contains("tracks")).count();
    assert!((1..20).contains(&told), "{told}");
    relay.stop().await;
}

/// Its answers fill the way to it: it keeps its place for no longer than the time that all have.
#[tokio::test]
async fn a_stranger_that_does_not_read_its_answers_is_given_up_in_time() {
    let limits = Limits {
        handshake_timeout: Duration::from_millis(500),
        ..LIMITS
    };
    let mut relay = Relay::start(limits).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(2_048).unwrap();
    let socket = socket.connect(relay.address).await.unwrap();
    let mut phone = Phone::over(socket);
    let hello = [&[3][..], &[0; 2 * BLOCK_LEN]].concat();
    phone.socket.write_all(&hello).await.unwrap();
    let mut connect = command("connect", 1.0, &[]);
    let mut body = BytesMut::from(&connect.payload[..connect.payload.len() - 1]);
    let object = [("capsEx".to_owned(), Value::Null)].into();
    crate::rtmp::amf0::encode(&Value::Object(object), &mut body);
    connect.payload = body.freeze();
    let asked = Instant::now();
    // Twenty times as much comes back.
    for _ in 0..400 {
        phone.send(&connect).await;
    }
    relay.wait_connections(0).await;
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    relay.stop().await;
}
