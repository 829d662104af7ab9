//! Real sockets on loopback, a real directory and registry; the connector's end is played by hand.

mod stream;

use std::{collections::BTreeMap, net::UdpSocket};

use bytes::Bytes;
use firstmile_shared::{
    clock,
    media::{AccessUnit, Codec},
    quic::{self, ResetKey, Transport},
    secret::{Secret, StreamKey},
    tls::{Identity, Pins},
    tunnel::{
        clock::{Ping, Pong},
        close::Reset,
        control::{
            self, Decoder, FromConnector, FromRelay, LagPolicy, LineDeclaration, MESSAGE_LEN_MAX,
            Received, Takeover,
        },
        unit::{HEADER_LEN, STREAM_LEN_MAX, Unit},
    },
};
use quinn::{Connection, ReadError, RecvStream, SendStream, TransportConfig};

use super::*;
use crate::{
    auth::Invitation,
    registry::{self, Publication, PublishRequest},
    store::{StoreThread, sqlite::Sqlite},
};

const KEY: &str = "7k2m-x9qd-h4tp";

/// A relay with its tunnel on a port of its own.
struct Relay {
    directory: Directory,
    registry: Registry,
    identity: Identity,
    address: SocketAddr,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<anyhow::Result<()>>,
    _store: StoreThread,
}

impl Relay {
    async fn start() -> Self {
        let store = StoreThread::start(Sqlite::in_memory().unwrap()).unwrap();
        let directory = Directory::open(store.handle()).await.unwrap();
        let metrics = Arc::new(Metrics::new());
        let limits = registry::Limits {
            publishers: 8,
            publishers_per_studio: 8,
            connectors: 8,
            connectors_per_studio: 8,
        };
        let registry = Registry::new(directory.clone(), metrics.clone(), limits);
        let identity = Identity::ephemeral().unwrap();
        let endpoint = quic::listen(
            UdpSocket::bind("127.0.0.1:0").unwrap(),
            &identity,
            &ResetKey::random(),
            Transport::default(),
        )
        .unwrap();
        let address = endpoint.local_addr().unwrap();
        let tunnel = Tunnel::new(
            directory.clone(),
            registry.clone(),
            metrics,
            IngestAddresses {
                hosts: vec!["relay.example".into()],
                rtmp_port: Some(1935),
                rtmps_port: None,
                rtmps_hosts: None,
            },
            scheduler::Limits::default(),
            Acceptor::new(&identity).unwrap(),
        );
        let doors = Doors {
            own: Some(TcpListener::bind(address).await.unwrap()),
            https: None,
        };
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        #[expect(clippy::disallowed_methods, reason = "joined by Relay::stop")]
        let served = tokio::spawn(async move { tunnel.serve(endpoint, doors, token).await });
        Self {
            directory,
            registry,
            identity,
            address,
            shutdown,
            served,
            _store: store,
        }
    }

    async fn invite(&self) -> Invitation {
        self.directory.invite("truck1", 1, 60).await.unwrap()
    }

    /// A connector of "truck1" that declared one line of [`KEY`] with this delay.
    async fn studio(&self, transport: TransportConfig, delay_ms: u32) -> Peer {
        let mut peer = Peer::dial_with(self, &Identity::ephemeral().unwrap(), transport).await;
        peer.enrol(&self.invite().await).await;
        assert!(matches!(
            peer.hear().await,
            FromRelay::Enrolled { studio, .. } if studio == "truck1"
        ));
        let salt = peer.hello().await;
        let key_hash = StreamKey::parse(KEY).unwrap().hash(&salt).to_hex();
        peer.say(&FromConnector::Declare {
            generation: 1,
            lines: vec![LineDeclaration {
                line: 7,
                name: "Camera 1".into(),
                key_hash,
                enabled: true,
                delay_ms,
                takeover: Takeover::Smart,
                lag: LagPolicy::Reconnect,
                max_lag_ms: 3_000,
            }],
        })
        .await;
        assert_eq!(
            peer.hear().await,
            FromRelay::Declared {
                generation: 1,
                refused: vec![]
            }
        );
        peer
    }

    fn publish(&self) -> Publication {
        self.registry
            .publish(PublishRequest {
                studio: "truck1".into(),
                key: KEY.into(),
                peer: "192.0.2.1:5000".parse().unwrap(),
                encoder: "Larix".into(),
                protocol: "rtmp",
            })
            .unwrap()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.served.await.unwrap().unwrap();
    }
}

/// A connector's end of a tunnel.
struct Peer {
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    decoder: Decoder,
    _endpoint: Endpoint,
}

impl Peer {
    async fn dial(relay: &Relay, identity: &Identity) -> Self {
        Self::dial_with(relay, identity, studio_transport()).await
    }

    async fn dial_with(relay: &Relay, identity: &Identity, transport: TransportConfig) -> Self {
        let endpoint = quic::dialer(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        let pins = Pins::new(vec![relay.identity.spki()]);
        let mut config = quic::client_config(identity, pins, Transport::default()).unwrap();
        config.transport_config(Arc::new(transport));
        let connection = endpoint
            .connect_with(config, relay.address, "relay")
            .unwrap()
            .await
            .unwrap();
        let (send, receive) = connection.open_bi().await.unwrap();
        Self {
            connection,
            send,
            receive,
            decoder: Decoder::new(MESSAGE_LEN_MAX),
            _endpoint: endpoint,
        }
    }

    async fn say(&mut self, message: &FromConnector) {
        self.say_bytes(&control::encode(message)).await;
    }

    async fn say_bytes(&mut self, bytes: &[u8]) {
        self.send.write_all(bytes).await.unwrap();
    }

    async fn enrol(&mut self, invitation: &Invitation) {
        self.say(&FromConnector::Enrol {
            token: invitation.id.clone(),
            secret: invitation.secret.clone(),
            name: "vmix-pc".into(),
        })
        .await;
    }

    /// Says hello; the answer is the salt of the welcome.
    async fn hello(&mut self) -> [u8; 32] {
        self.say_hello().await;
        match self.hear().await {
            FromRelay::Welcome { salt, studio, .. } => {
                assert_eq!(studio, "truck1");
                firstmile_shared::secret::from_hex(&salt).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    async fn say_hello(&mut self) {
        self.say(&FromConnector::Hello {
            version: 1,
            name: "vmix-pc".into(),
            software: "test 1".into(),
            session: 1,
            handover: false,
        })
        .await;
    }

    /// The next message besides the feeds' state.
    async fn hear(&mut self) -> FromRelay {
        loop {
            match self.decoder.poll().unwrap() {
                Some(Received::Message(FromRelay::FeedStatus { .. })) => continue,
                Some(Received::Message(message)) => return message,
                Some(Received::Unknown(kind)) => panic!("unknown message {kind}"),
                None => {}
            }
            let chunk = time::timeout(WAIT, self.receive.read_chunk(4096, true))
                .await
                .expect("a message comes")
                .unwrap()
                .expect("the stream goes on");
            self.decoder.buffer_mut().extend_from_slice(&chunk.bytes);
        }
    }

    async fn closed(&self) -> Close {
        match time::timeout(WAIT, self.connection.closed())
            .await
            .expect("it closes")
        {
            quinn::ConnectionError::ApplicationClosed(closed) => {
                Close::from_code(closed.error_code.into()).unwrap()
            }
            other => panic!("{other}"),
        }
    }

    async fn refused(&mut self) -> (Close, String) {
        match self.hear().await {
            FromRelay::Refused { code, message } => {
                let close = Close::from_code(code.into()).unwrap();
                assert_eq!(self.closed().await, close);
                (close, message)
            }
            other => panic!("{other:?}"),
        }
    }

    /// The next unit's stream, with what its header says.
    async fn stream(&self) -> UnitStream {
        let mut stream = time::timeout(WAIT, self.connection.accept_uni())
            .await
            .expect("a stream comes")
            .unwrap();
        let mut header = [0; HEADER_LEN];
        stream.read_exact(&mut header).await.unwrap();
        UnitStream {
            is_audio: header[2] == Codec::Aac.code(),
            head: Bytes::copy_from_slice(&header),
            stream,
        }
    }

    async fn unit(&self) -> Unit {
        self.stream().await.read().await.unwrap()
    }
}

struct UnitStream {
    is_audio: bool,
    head: Bytes,
    stream: RecvStream,
}

impl UnitStream {
    async fn read(mut self) -> Result<Unit, quinn::ReadToEndError> {
        let mut bytes = self.head.to_vec();
        bytes.extend(self.stream.read_to_end(STREAM_LEN_MAX).await?);
        Ok(Unit::decode(bytes.into()).unwrap())
    }
}

fn studio_transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport.max_concurrent_uni_streams(VarInt::from_u32(1024));
    transport
}

fn picture(n: i64, keyframe: bool, len: usize) -> AccessUnit {
    AccessUnit {
        codec: Codec::H264,
        track: 0,
        keyframe,
        disposable: false,
        discontinuity: false,
        dts_us: n * 33_333,
        cts_us: 0,
        config: keyframe.then(|| Bytes::from_static(b"config")),
        payload: vec![0x55; len].into(),
    }
}

fn sound(n: i64) -> AccessUnit {
    AccessUnit {
        codec: Codec::Aac,
        keyframe: true,
        config: Some(Bytes::from_static(b"asc")),
        ..picture(n, true, 300)
    }
}

const WAIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_token_makes_a_stranger_a_studio_and_its_feed_arrives() {
    let relay = Relay::start().await;
    let mut studio = relay.studio(studio_transport(), 600).await;
    let mut publication = relay.publish();
    let FromRelay::FeedStarted {
        line,
        encoder,
        publisher,
        ..
    } = studio.hear().await
    else {
        panic!("no feed");
    };
    assert_eq!((line, encoder.as_str()), (7, "Larix"));

    let sent = [
        picture(0, true, 150_000),
        sound(0),
        picture(1, false, 20_000),
    ];
    for unit in &sent {
        publication.deliver(unit.clone(), clock::now_us());
    }
    let mut got = BTreeMap::new();
    for _ in &sent {
        let unit = studio.unit().await;
        assert_eq!((unit.line, unit.publisher), (7, publisher));
        got.insert(unit.seq, unit.access_unit);
    }
    assert_eq!(got.into_values().collect::<Vec<_>>(), sent);

    publication.end("the encoder left");
    assert!(matches!(
        studio.hear().await,
        FromRelay::FeedEnded { line: 7, reason, .. } if reason == "the encoder left"
    ));
    relay.stop().await;
    assert_eq!(studio.closed().await, Close::Bye);
}

/// The whole conversation about a second encoder.
#[tokio::test]
async fn the_operator_of_a_studio_hears_of_a_second_encoder_and_decides() {
    let relay = Relay::start().await;
    let mut studio = relay.studio(studio_transport(), 600).await;
    studio
        .say(&FromConnector::Tally {
            program: vec![7],
            preview: vec![],
        })
        .await;
    let mut first = relay.publish();
    let FromRelay::FeedStarted {
        publisher, agent, ..
    } = studio.hear().await
    else {
        panic!("no feed");
    };
    assert_eq!(agent, "Larix");
    first.deliver(picture(0, true, 1_000), clock::now_us());
    // It looks like the first, which is silent for long enough off program.
    time::sleep(Duration::from_millis(300)).await;
    let mut second = relay.publish();
    let sending = async {
        for n in 0.. {
            first.deliver(picture(2 * n, true, 1_000), clock::now_us());
            second.deliver(picture(2 * n, true, 1_000), clock::now_us());
            time::sleep(Duration::from_millis(50)).await;
        }
    };
    let talking = async {
        let FromRelay::Claims {
            line: 7,
            held,
            frozen: false,
            ..
        } = studio.hear().await
        else {
            panic!("no claims");
        };
        let [rival] = held.as_slice() else {
            panic!("{held:?}");
        };
        assert_eq!(
            (rival.encoder.as_str(), rival.peer.as_str()),
            ("Larix", "192.0.2.1:5000")
        );
        let (line, rival) = (7, rival.publisher);
        studio
            .say(&FromConnector::Take {
                line,
                publisher: rival,
            })
            .await;
        assert!(matches!(
            studio.hear().await,
            FromRelay::FeedEnded { publisher: old, reason, .. }
                if old == publisher && reason == "the operator chose another encoder"
        ));
        assert!(matches!(
            studio.hear().await,
            FromRelay::FeedStarted { publisher: new, .. } if new == rival
        ));
        let FromRelay::Claims { held, .. } = studio.hear().await else {
            panic!("no claims");
        };
        assert_eq!(held[0].publisher, publisher, "the first waits now");
        studio.say(&FromConnector::Refuse { line, publisher }).await;
        let FromRelay::Claims { held, refused, .. } = studio.hear().await else {
            panic!("no claims");
        };
        assert_eq!((held.len(), refused[0].publisher), (0, publisher));
    };
    tokio::select! {
        () = sending => {}
        () = talking => {}
    }
    assert_eq!(first.replaced().await, registry::Ending::Refused);
    relay.stop().await;
}

/// The peer's window for one stream is smaller than the keyframe, and nobody reads that stream.
#[tokio::test]
async fn a_blocked_keyframe_does_not_stop_audio() {
    let relay = Relay::start().await;
    let mut transport = studio_transport();
    transport.stream_receive_window(VarInt::from_u32(16 * 1024));
    let mut studio = relay.studio(transport, 600).await;
    let mut publication = relay.publish();
    assert!(matches!(studio.hear().await, FromRelay::FeedStarted { .. }));

    publication.deliver(picture(0, true, 500_000), clock::now_us());
    let keyframe = studio.stream().await;
    assert!(!keyframe.is_audio);
    for n in 0..100 {
        publication.deliver(sound(n), clock::now_us());
        if n % 3 == 0 {
            publication.deliver(picture(n / 3 + 1, false, 4_000), clock::now_us());
        }
        let mut has_sound = false;
        while !has_sound {
            let unit = studio.unit().await;
            has_sound = unit.access_unit.codec == Codec::Aac;
        }
    }
    let keyframe = time::timeout(WAIT, keyframe.read()).await.unwrap().unwrap();
    assert_eq!(
        keyframe.access_unit,
        picture(0, true, 500_000),
        "the keyframe itself arrives once it is read"
    );
    relay.stop().await;
}

#[tokio::test]
async fn a_unit_that_gets_late_on_its_way_is_reset_and_reported() {
    let relay = Relay::start().await;
    let mut transport = studio_transport();
    transport.stream_receive_window(VarInt::from_u32(16 * 1024));
    let mut studio = relay.studio(transport, 0).await;
    let mut publication = relay.publish();
    let FromRelay::FeedStarted { publisher, .. } = studio.hear().await else {
        panic!("no feed");
    };
    publication.deliver(picture(0, true, 1_000), clock::now_us());
    let unit = studio.unit().await;
    assert!(unit.access_unit.keyframe);
    publication.deliver(picture(1, false, 200_000), clock::now_us());
    let mut held = studio.stream().await;
    publication.deliver(picture(2, false, 500), clock::now_us());
    let after = studio.unit().await;
    assert_eq!(after.seq, 2, "the next one is not held up");

    // D = 0: late after 500 ms.
    time::sleep(Duration::from_millis(600)).await;
    let mut buffer = vec![0; 300_000];
    let error = loop {
        match held.stream.read(&mut buffer).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, ReadError::Reset(code) if code.into_inner() == Reset::Late as u64),
        "{error}"
    );
    let FromRelay::Dropped {
        from_seq,
        to_seq,
        video,
        audio,
        ..
    } = studio.hear().await
    else {
        panic!("not reported");
    };
    assert_eq!((from_seq, to_seq, video, audio), (1, 1, 1, 0));
    publication.deliver(picture(30, false, 500), clock::now_us());
    publication.deliver(picture(31, true, 500), clock::now_us());
    let next = studio.unit().await;
    assert_eq!(
        (next.publisher, next.seq),
        (publisher, 4),
        "what needs it is not sent"
    );
    relay.stop().await;
}

#[tokio::test]
async fn without_stream_credit_units_wait_and_the_late_ones_go() {
    let relay = Relay::start().await;
    let mut transport = studio_transport();
    transport.max_concurrent_uni_streams(VarInt::from_u32(2));
    let mut studio = relay.studio(transport, 0).await;
    let mut publication = relay.publish();
    assert!(matches!(studio.hear().await, FromRelay::FeedStarted { .. }));
    for n in 0..200 {
        publication.deliver(sound(n), clock::now_us());
        time::sleep(Duration::from_millis(5)).await;
    }
    // Two are on the wire; of the others the younger half second still waits.
    let FromRelay::Dropped {
        video: 0, audio, ..
    } = studio.hear().await
    else {
        panic!("not reported");
    };
    assert!(audio > 0);
    // It goes on, also where this machine is too slow to fetch what waits before it is late.
    let (mut last, mut n) = (0, 200);
    while last <= 50 {
        publication.deliver(sound(n), clock::now_us());
        n += 1;
        last = studio.unit().await.seq;
    }
    relay.stop().await;
}

#[tokio::test]
async fn a_token_works_once_and_again_for_the_same_connector() {
    let relay = Relay::start().await;
    let (first, second) = (
        Identity::ephemeral().unwrap(),
        Identity::ephemeral().unwrap(),
    );
    let invitation = relay.invite().await;
    // The answer may get lost on its way: the same connector asks again, on a new connection or the same.
    for _ in 0..2 {
        let mut peer = Peer::dial(&relay, &first).await;
        peer.enrol(&invitation).await;
        assert!(matches!(peer.hear().await, FromRelay::Enrolled { .. }));
    }
    let mut peer = Peer::dial(&relay, &second).await;
    peer.enrol(&invitation).await;
    let (close, message) = peer.refused().await;
    assert_eq!(close, Close::Token);
    assert!(message.contains("used up"), "{message}");

    let mut peer = Peer::dial(&relay, &second).await;
    peer.enrol(&Invitation {
        secret: Secret::new("guess"),
        ..relay.invite().await
    })
    .await;
    let (close, message) = peer.refused().await;
    assert_eq!(close, Close::Token);
    assert!(
        message.contains("does not know the join token"),
        "{message}"
    );

    let mut peer = Peer::dial(&relay, &second).await;
    let expired = relay.directory.invite("truck1", 1, -1).await.unwrap();
    peer.enrol(&expired).await;
    let (close, message) = peer.refused().await;
    assert_eq!(close, Close::Token);
    assert!(message.contains("expired"), "{message}");

    let mut peer = Peer::dial(&relay, &second).await;
    peer.say_hello().await;
    let (close, message) = peer.refused().await;
    assert_eq!(close, Close::Unknown);
    assert!(message.contains("join again"), "{message}");
    relay.stop().await;
}

#[tokio::test]
async fn a_revoked_connector_is_told_and_closed_within_a_second() {
    let relay = Relay::start().await;
    let mut studio = relay.studio(studio_transport(), 600).await;
    relay.directory.revoke_studio("truck1").await.unwrap();
    let (close, _) = studio.refused().await;
    assert_eq!(close, Close::Unknown);
    relay.stop().await;
}

#[tokio::test]
async fn a_new_connection_of_a_connector_takes_the_place_of_the_old_one() {
    let relay = Relay::start().await;
    let identity = Identity::ephemeral().unwrap();
    let mut old = Peer::dial(&relay, &identity).await;
    old.enrol(&relay.invite().await).await;
    assert!(matches!(old.hear().await, FromRelay::Enrolled { .. }));
    old.hello().await;
    let mut new = Peer::dial(&relay, &identity).await;
    new.hello().await;
    assert_eq!(old.closed().await, Close::Replaced);
    new.say_bytes(&control::encode(&FromConnector::Declare {
        generation: 1,
        lines: vec![],
    }))
    .await;
    assert!(matches!(new.hear().await, FromRelay::Declared { .. }));
    assert!(new.connection.close_reason().is_none(), "the new one stays");
    relay.stop().await;
}

#[tokio::test]
async fn later_versions_are_understood() {
    let relay = Relay::start().await;
    let identity = Identity::ephemeral().unwrap();
    let mut peer = Peer::dial(&relay, &identity).await;
    let invitation = relay.invite().await;
    let say = |json: String| {
        let mut bytes = u32::try_from(json.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(json.into_bytes());
        bytes
    };
    // A connector three versions ahead: new fields and a message that this relay has never heard of.
    let mut words = say(r#"{"type":"capabilities","codecs":["av2"]}"#.to_owned());
    words.extend(say(format!(
        r#"{{"type":"enrol","token":"{}","secret":"{}","serial":12}}"#,
        invitation.id,
        invitation.secret.expose()
    )));
    words.extend(say(
        r#"{"type":"hello","version":4,"name":"pc","software":"x 9","session":1,"mood":"good"}"#
            .to_owned(),
    ));
    peer.say_bytes(&words).await;
    assert!(matches!(peer.hear().await, FromRelay::Enrolled { .. }));
    assert!(matches!(
        peer.hear().await,
        FromRelay::Welcome { version: 1, .. }
    ));
    relay.stop().await;
}

#[tokio::test]
async fn a_stranger_can_not_send_much_nor_stay_long() {
    let relay = Relay::start().await;
    let identity = Identity::ephemeral().unwrap();
    let mut silent = Peer::dial(&relay, &identity).await;
    silent.say_bytes(&[0, 0]).await;

    let mut long = Peer::dial(&relay, &identity).await;
    long.say_bytes(&5_000u32.to_be_bytes()).await;
    assert_eq!(long.closed().await, Close::Protocol);

    let mut broken = Peer::dial(&relay, &identity).await;
    broken.say_bytes(b"\0\0\0\x02[[").await;
    assert_eq!(broken.closed().await, Close::Protocol);

    let more = broken.connection.open_uni();
    assert!(
        time::timeout(Duration::from_millis(100), more)
            .await
            .map_or(true, |opened| opened.is_err()),
        "no streams from a stranger"
    );
    assert_eq!(silent.closed().await, Close::TooSlow);
    relay.stop().await;
}

/// A message that is stuck on its way must not hide that the queue behind it is full.
#[tokio::test]
async fn a_connector_that_never_reads_its_control_stream_is_sent_away() {
    let relay = Relay::start().await;
    let mut transport = studio_transport();
    transport.stream_receive_window(VarInt::from_u32(1024));
    let mut peer = Peer::dial_with(&relay, &Identity::ephemeral().unwrap(), transport).await;
    let invitation = relay.invite().await;
    peer.enrol(&invitation).await;
    assert!(matches!(peer.hear().await, FromRelay::Enrolled { .. }));
    peer.hello().await;
    let enrol = control::encode(&FromConnector::Enrol {
        token: invitation.id.clone(),
        secret: invitation.secret.clone(),
        name: String::new(),
    });
    while peer.send.write_all(&enrol).await.is_ok() {}
    assert_eq!(peer.closed().await, Close::TooSlow);
    relay.stop().await;
}

#[tokio::test]
async fn pings_are_answered_before_anybody_is_known() {
    let relay = Relay::start().await;
    let peer = Peer::dial(&relay, &Identity::ephemeral().unwrap()).await;
    let sent_us = clock::now_us();
    peer.connection
        .send_datagram(Ping { sent_us }.encode())
        .unwrap();
    let datagram = time::timeout(WAIT, peer.connection.read_datagram())
        .await
        .unwrap()
        .unwrap();
    let pong = Pong::decode(&datagram).unwrap();
    assert_eq!(pong.ping_sent_us, sent_us);
    assert!((sent_us..=clock::now_us()).contains(&pong.received_us));
    relay.stop().await;
}

#[test]
fn the_limits_of_strangers_are_those_of_the_protocol() {
    let text = include_str!("../../../shared/PROTOCOL.md");
    for (name, limit) in [
        ("strangers at once", admission::PENDING_MAX),
        (
            "strangers at once before an address must be proved (Retry)",
            admission::PENDING_BEFORE_RETRY,
        ),
        (
            "strangers at once from one IPv4 address or IPv6 /64",
            admission::PENDING_PER_ADDRESS,
        ),
        (
            "seconds from the handshake to the welcome",
            usize::try_from(greeting::GREETING_TIMEOUT.as_secs()).unwrap(),
        ),
    ] {
        let row = format!("| {name} | {limit} |");
        assert!(text.contains(&row), "not in the text: {row}");
    }
}
