//! The same relay, for connectors that come over TCP.

use bytes::BytesMut;
use firstmile_shared::{
    tcp,
    tunnel::frame::{Assembly, BODY_LEN_MAX, Frame},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// A connector's end of a tunnel over TCP.
struct TcpPeer {
    connection: tcp::Connection,
    decoder: Decoder,
    assembly: Assembly,
    given_up: Vec<u32>,
}

/// What came.
#[derive(Debug)]
enum Came {
    Message(Box<FromRelay>),
    Unit(Unit),
    Pong,
    Closed(Close),
}

impl TcpPeer {
    async fn dial(relay: &Relay, identity: &Identity) -> Self {
        let pins = Pins::new(vec![relay.identity.spki()]);
        let connection = tcp::connect(relay.address, identity, pins).await.unwrap();
        Self {
            connection,
            decoder: Decoder::new(MESSAGE_LEN_MAX),
            assembly: Assembly::default(),
            given_up: Vec::new(),
        }
    }

    /// A connector of "truck1" that declared one line of [`KEY`] with this delay.
    async fn studio(relay: &Relay, delay_ms: u32) -> Self {
        Self::studio_of(relay, &Identity::ephemeral().unwrap(), delay_ms).await
    }

    async fn studio_of(relay: &Relay, identity: &Identity, delay_ms: u32) -> Self {
        let mut peer = Self::dial(relay, identity).await;
        let invitation = relay.invite().await;
        peer.say(&FromConnector::Enrol {
            token: invitation.id.clone(),
            secret: invitation.secret.clone(),
            name: "vmix-pc".into(),
        })
        .await;
        assert!(matches!(peer.hear().await, FromRelay::Enrolled { .. }));
        peer.say_hello(1).await;
        let FromRelay::Welcome { salt, .. } = peer.hear().await else {
            panic!("no welcome");
        };
        let salt = firstmile_shared::secret::from_hex(&salt).unwrap();
        peer.say(&FromConnector::Declare {
            generation: 1,
            lines: vec![LineDeclaration {
                line: 7,
                name: "Camera 1".into(),
                key_hash: StreamKey::parse(KEY).unwrap().hash(&salt).to_hex(),
                enabled: true,
                delay_ms,
                takeover: Takeover::Smart,
                lag: LagPolicy::Reconnect,
                max_lag_ms: 3_000,
            }],
        })
        .await;
        assert!(matches!(peer.hear().await, FromRelay::Declared { .. }));
        peer
    }

    async fn say(&mut self, message: &FromConnector) {
        self.put(Frame::Control(control::encode(message))).await;
    }

    async fn say_hello(&mut self, version: u32) {
        self.say(&FromConnector::Hello {
            version,
            name: "vmix-pc".into(),
            software: "test 1".into(),
            session: 1,
            handover: false,
        })
        .await;
    }

    async fn put(&mut self, frame: Frame) {
        self.connection.writer.put(&frame);
        self.connection.writer.flush().await.unwrap();
    }

    async fn next(&mut self) -> Came {
        loop {
            match self.decoder.poll().unwrap() {
                Some(Received::Message(FromRelay::FeedStatus { .. })) => continue,
                Some(Received::Message(message)) => return Came::Message(Box::new(message)),
                Some(Received::Unknown(kind)) => panic!("unknown message {kind}"),
                None => {}
            }
            let frame = time::timeout(WAIT, self.connection.reader.next())
                .await
                .expect("a frame comes")
                .unwrap()
                .expect("it goes on");
            match frame {
                Frame::Control(bytes) => self.decoder.buffer_mut().extend_from_slice(&bytes),
                Frame::Datagram(bytes) if Pong::decode(&bytes).is_some() => return Came::Pong,
                Frame::Datagram(_) => {}
                Frame::Part {
                    unit,
                    is_last,
                    bytes,
                } => {
                    if let Some(whole) = self.assembly.part(unit, is_last, &bytes).unwrap() {
                        return Came::Unit(Unit::decode(whole.unwrap()).unwrap());
                    }
                }
                Frame::GiveUp { unit, code } => {
                    assert_eq!(code, Reset::Late as u32);
                    self.assembly.give_up(unit).unwrap();
                    self.given_up.push(unit);
                }
                Frame::Close { code, .. } => {
                    return Came::Closed(Close::from_code(code.into()).unwrap());
                }
            }
        }
    }

    async fn hear(&mut self) -> FromRelay {
        match self.next().await {
            Came::Message(message) => *message,
            other => panic!("{other:?}"),
        }
    }

    async fn unit(&mut self) -> Unit {
        match self.next().await {
            Came::Unit(unit) => unit,
            other => panic!("{other:?}"),
        }
    }

    async fn closed(&mut self) -> Close {
        loop {
            if let Came::Closed(close) = self.next().await {
                return close;
            }
        }
    }
}

#[tokio::test]
async fn a_feed_arrives_over_tcp_and_the_goodbye_too() {
    let relay = Relay::start().await;
    let mut studio = TcpPeer::studio(&relay, 600).await;
    let mut publication = relay.publish();
    assert!(matches!(
        studio.hear().await,
        FromRelay::FeedStarted { line: 7, .. }
    ));
    let sent = [
        picture(0, true, 150_000),
        sound(0),
        picture(1, false, 20_000),
        picture(2, false, 0),
    ];
    for unit in &sent {
        publication.deliver(unit.clone(), clock::now_us());
    }
    let mut got = BTreeMap::new();
    for _ in &sent {
        let unit = studio.unit().await;
        got.insert(unit.seq, unit.access_unit);
    }
    assert_eq!(got.into_values().collect::<Vec<_>>(), sent);
    let sent_us = clock::now_us();
    studio.put(Frame::Datagram(Ping { sent_us }.encode())).await;
    let answer = studio.next().await;
    assert!(matches!(answer, Came::Pong), "{answer:?}");
    let connectors = relay.registry.connectors();
    assert_eq!(connectors[0].transport.as_deref(), Some("tcp"));
    publication.end("the encoder left");
    assert!(matches!(studio.hear().await, FromRelay::FeedEnded { .. }));
    relay.shutdown.cancel();
    assert_eq!(studio.closed().await, Close::Bye);
    relay.stop().await;
}

/// The network takes nothing for a while: what waits stays here, and what is late by then goes.
#[tokio::test]
async fn sound_passes_a_keyframe_and_what_is_late_is_left_out() {
    let relay = Relay::start().await;
    let mut studio = TcpPeer::studio(&relay, 300).await;
    let mut publication = relay.publish();
    assert!(matches!(studio.hear().await, FromRelay::FeedStarted { .. }));
    let since = time::Instant::now();
    // However slow this machine is, the encoder is not behind.
    let now = || i64::try_from(since.elapsed().as_millis() / 33).unwrap();
    publication.deliver(picture(0, true, 1_000), clock::now_us());
    assert!(studio.unit().await.access_unit.keyframe);
    // More than both sockets hold; nobody reads.
    publication.deliver(picture(now(), false, 8_000_000), clock::now_us());
    // Until it is on its way: of that, nothing is to be seen before somebody reads.
    time::sleep(Duration::from_millis(100)).await;
    publication.deliver(sound(now()), clock::now_us());
    let first = studio.unit().await;
    assert_eq!(first.seq, 2, "sound passes");
    // Late at D + 500 ms, of which nothing tells: whoever listened for it would read, and it would come in time.
    time::sleep(Duration::from_secs(1)).await;
    publication.deliver(picture(now(), true, 500), clock::now_us());
    let FromRelay::Dropped {
        from_seq: 1,
        to_seq: 1,
        ..
    } = studio.hear().await
    else {
        panic!("not reported");
    };
    let next = studio.unit().await;
    assert!(next.access_unit.keyframe, "the late one did not come");
    assert_eq!(studio.given_up.len(), 1);
    relay.stop().await;
}

#[tokio::test]
async fn a_connector_has_one_connection_whatever_carries_it() {
    let relay = Relay::start().await;
    let identity = Identity::ephemeral().unwrap();
    let mut old = Peer::dial(&relay, &identity).await;
    old.enrol(&relay.invite().await).await;
    assert!(matches!(old.hear().await, FromRelay::Enrolled { .. }));
    old.hello().await;
    let mut over_tcp = TcpPeer::dial(&relay, &identity).await;
    over_tcp.say_hello(1).await;
    assert!(matches!(over_tcp.hear().await, FromRelay::Welcome { .. }));
    assert_eq!(old.closed().await, Close::Replaced);
    let mut new = Peer::dial(&relay, &identity).await;
    new.hello().await;
    assert_eq!(over_tcp.closed().await, Close::Replaced);
    relay.stop().await;
}

#[tokio::test]
async fn what_breaks_the_protocol_is_closed_with_its_code() {
    let relay = Relay::start().await;
    let identity = Identity::ephemeral().unwrap();
    let body = |len: usize| Bytes::from(vec![0xff; len]);
    let part = Frame::Part {
        unit: 0,
        is_last: true,
        bytes: body(10),
    };
    let mut long = BytesMut::from(&5_000_u32.to_be_bytes()[..]);
    long.extend_from_slice(&[b' '; 100]);
    for (what, frame, close) in [
        ("units", part, Close::Protocol),
        (
            "a long message",
            Frame::Control(long.freeze()),
            Close::Protocol,
        ),
        (
            "no message",
            Frame::Control(Bytes::from_static(b"\0\0\0\x02[[")),
            Close::Protocol,
        ),
    ] {
        let mut peer = TcpPeer::dial(&relay, &identity).await;
        peer.put(frame).await;
        assert_eq!(peer.closed().await, close, "{what}");
    }
    let mut old = TcpPeer::dial(&relay, &identity).await;
    old.say_hello(0).await;
    assert!(matches!(
        old.hear().await,
        FromRelay::Refused { code, .. } if code == Close::Version.code()
    ));
    assert_eq!(old.closed().await, Close::Version);
    let mut unknown = TcpPeer::dial(&relay, &identity).await;
    unknown.say_hello(1).await;
    assert!(matches!(unknown.hear().await, FromRelay::Refused { .. }));
    assert_eq!(unknown.closed().await, Close::Unknown);
    relay.stop().await;
}

/// Neither TLS nor frames: the relay's door is as narrow over TCP as it is over UDP.
#[tokio::test]
async fn strangers_over_tcp_are_bounded_and_have_five_seconds() {
    let relay = Relay::start().await;
    let mut silent = Vec::new();
    for _ in 0..admission::PENDING_PER_ADDRESS {
        silent.push(TcpStream::connect(relay.address).await.unwrap());
    }
    let mut buffer = [0; 1];
    let mut one_more = TcpStream::connect(relay.address).await.unwrap();
    let ended = time::timeout(Duration::from_secs(1), one_more.read(&mut buffer)).await;
    assert!(
        matches!(ended, Ok(Ok(0) | Err(_))),
        "the ninth of one address is sent away at once: {ended:?}"
    );
    let mut first = silent.remove(0);
    first.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // An alert, and the end.
    let ended = time::timeout(Duration::from_secs(1), first.read_to_end(&mut answer)).await;
    assert!(ended.is_ok() && answer.len() < 16, "{answer:?}");
    let since = time::Instant::now();
    let ended = time::timeout(WAIT, silent[0].read(&mut buffer)).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
    assert!(since.elapsed() < Duration::from_secs(6));
    relay.stop().await;
}

#[tokio::test]
async fn the_longest_message_goes_in_several_frames() {
    let relay = Relay::start().await;
    let mut studio = TcpPeer::studio(&relay, 600).await;
    let lines = (0..256)
        .map(|line| LineDeclaration {
            line,
            name: format!("Camera {line}"),
            key_hash: format!("{line:064x}"),
            enabled: true,
            delay_ms: 600,
            takeover: Takeover::Smart,
            lag: LagPolicy::Reconnect,
            max_lag_ms: 3_000,
        })
        .collect();
    let declare = control::encode(&FromConnector::Declare {
        generation: 2,
        lines,
    });
    assert!(declare.len() > 2 * BODY_LEN_MAX);
    for part in declare.chunks(BODY_LEN_MAX) {
        studio
            .put(Frame::Control(Bytes::copy_from_slice(part)))
            .await;
    }
    assert!(matches!(
        studio.hear().await,
        FromRelay::Declared { generation: 2, .. }
    ));
    relay.stop().await;
}

/// The way back from TCP to QUIC: nothing comes twice, nothing is missing.
#[tokio::test]
async fn a_second_connection_of_one_run_takes_each_feed_over_at_its_next_keyframe() {
    let relay = Relay::start().await;
    let identity = Identity::ephemeral().unwrap();
    let mut first = TcpPeer::studio_of(&relay, &identity, 600).await;
    let mut publication = relay.publish();
    let FromRelay::FeedStarted { publisher, .. } = first.hear().await else {
        panic!("no feed");
    };
    publication.deliver(picture(0, true, 500), clock::now_us());
    assert_eq!(first.unit().await.seq, 0);

    let mut second = Peer::dial(&relay, &identity).await;
    let hello = |session| FromConnector::Hello {
        version: 1,
        name: "vmix-pc".into(),
        software: "test 1".into(),
        session,
        handover: true,
    };
    second.say(&hello(1)).await;
    assert!(matches!(second.hear().await, FromRelay::Welcome { .. }));
    assert!(matches!(
        second.hear().await,
        FromRelay::FeedStarted { publisher: same, .. } if same == publisher
    ));
    publication.deliver(picture(1, false, 500), clock::now_us());
    publication.deliver(sound(1), clock::now_us());
    assert_eq!(first.unit().await.seq.max(first.unit().await.seq), 2);
    publication.deliver(picture(2, true, 500), clock::now_us());
    publication.deliver(sound(2), clock::now_us());
    let got = [second.unit().await.seq, second.unit().await.seq];
    assert_eq!(got.iter().sum::<u64>(), 3 + 4, "{got:?}");
    publication.deliver(picture(3, false, 500), clock::now_us());
    assert_eq!(second.unit().await.seq, 5);
    let more = time::timeout(Duration::from_millis(100), first.next()).await;
    assert!(more.is_err(), "nothing for both: {more:?}");

    // Another run of a program with the same key is a copy: they do not share.
    let mut copy = Peer::dial(&relay, &identity).await;
    copy.say(&hello(2)).await;
    assert!(matches!(copy.hear().await, FromRelay::Welcome { .. }));
    assert_eq!(second.closed().await, Close::Replaced);
    relay.stop().await;
}

#[tokio::test]
async fn a_feed_moves_at_once_from_a_connection_that_is_gone() {
    let relay = Relay::start().await;
    let identity = Identity::ephemeral().unwrap();
    let first = TcpPeer::studio_of(&relay, &identity, 600).await;
    let mut publication = relay.publish();
    publication.deliver(picture(0, true, 500), clock::now_us());
    let mut second = Peer::dial(&relay, &identity).await;
    second
        .say(&FromConnector::Hello {
            version: 1,
            name: "vmix-pc".into(),
            software: "test 1".into(),
            session: 1,
            handover: true,
        })
        .await;
    assert!(matches!(second.hear().await, FromRelay::Welcome { .. }));
    drop(first);
    let since = time::Instant::now();
    while relay.registry.connectors_len() > 1 {
        assert!(since.elapsed() < WAIT);
        time::sleep(Duration::from_millis(5)).await;
    }
    publication.deliver(sound(1), clock::now_us());
    assert_eq!(second.unit().await.seq, 1, "sound needs no keyframe");
    relay.stop().await;
}
