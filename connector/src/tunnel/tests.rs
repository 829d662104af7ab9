//! Real sockets on loopback; the relay's end is played by hand, the lines are real and go nowhere.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Instant,
};

use bytes::Bytes;
use firstmile_shared::{
    clock,
    media::{AccessUnit, Codec},
    quic::{self, ResetKey, Transport},
    secret::{Secret, to_hex},
    tunnel::{
        clock::{Ping, Pong},
        control::{
            self, Claim, Decoder, FeedReport, FromConnector, FromRelay, LineDeclaration,
            MESSAGE_LEN_MAX, Received, RefusedLine,
        },
        unit::Unit,
    },
};
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};

use super::*;
use crate::{
    control::{Control, Health, Request},
    decode::Decoders,
    lines::Delay,
    output::{OutputKind, Outputs},
};

const SALT: [u8; 32] = [9; 32];
const WAIT: Duration = Duration::from_secs(10);

/// The relay's end.
struct FakeRelay {
    identity: Identity,
    endpoint: Endpoint,
    address: SocketAddr,
}

impl FakeRelay {
    async fn start() -> Self {
        let identity = Identity::ephemeral().unwrap();
        Self::start_at("127.0.0.1:0".parse().unwrap(), identity).await
    }

    async fn start_at(address: SocketAddr, identity: Identity) -> Self {
        // The one before may need a moment to let go of the port.
        let since = Instant::now();
        let socket = loop {
            match UdpSocket::bind(address) {
                Ok(socket) => break socket,
                Err(error) => assert!(since.elapsed() < WAIT, "{error}"),
            }
            time::sleep(Duration::from_millis(10)).await;
        };
        let address = socket.local_addr().unwrap();
        let endpoint =
            quic::listen(socket, &identity, &ResetKey::random(), Transport::default()).unwrap();
        Self {
            identity,
            endpoint,
            address,
        }
    }

    fn token(&self) -> JoinToken {
        JoinToken {
            addresses: vec![self.address.to_string()],
            pins: vec![self.identity.spki()],
            studio: "truck1".into(),
            id: "t1".into(),
            secret: Secret::new("s3cret"),
            expires_unix: u64::MAX,
            https_port: None,
        }
    }

    async fn accept(&self) -> Guest {
        let incoming = time::timeout(WAIT, self.endpoint.accept())
            .await
            .expect("somebody comes")
            .unwrap();
        let connection = incoming.await.unwrap();
        let (send, receive) = connection.accept_bi().await.unwrap();
        let mut pings = JoinSet::new();
        pings.spawn(answer_pings(connection.clone()));
        Guest {
            connection,
            pings,
            send,
            receive,
            decoder: Decoder::new(MESSAGE_LEN_MAX),
        }
    }

    /// Accepts, hears hello and welcomes; pings are answered from then on.
    async fn welcome(&self) -> Guest {
        let mut guest = self.accept().await;
        let hello = guest.hear().await;
        assert!(
            matches!(hello, FromConnector::Hello { version: 1, .. }),
            "{hello:?}"
        );
        guest
            .say(&FromRelay::Welcome {
                version: 1,
                studio: "truck1".into(),
                salt: to_hex(&SALT),
                software: "test 1".into(),
                ingest: IngestAddresses {
                    hosts: vec!["relay.example".into()],
                    rtmp_port: Some(1935),
                    rtmps_port: None,
                    rtmps_hosts: None,
                },
            })
            .await;
        guest
    }
}

struct Guest {
    connection: Connection,
    pings: JoinSet<()>,
    send: SendStream,
    receive: RecvStream,
    decoder: Decoder,
}

impl Guest {
    async fn say(&mut self, message: &FromRelay) {
        self.send
            .write_all(&control::encode(message))
            .await
            .unwrap();
    }

    async fn hear(&mut self) -> FromConnector {
        loop {
            match self.decoder.poll().unwrap() {
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

    async fn declared(&mut self) -> (u64, Vec<LineDeclaration>) {
        match self.hear().await {
            FromConnector::Declare { generation, lines } => (generation, lines),
            other => panic!("{other:?}"),
        }
    }

    async fn send_unit(&self, unit: &Unit) {
        let mut stream = self.connection.open_uni().await.unwrap();
        stream.write_all(&unit.encode_head()).await.unwrap();
        stream.write_all(&unit.access_unit.payload).await.unwrap();
        stream.finish().unwrap();
    }
}

/// Answers pings until the connection is gone.
async fn answer_pings(connection: Connection) {
    while let Ok(datagram) = connection.read_datagram().await {
        let Some(ping) = Ping::decode(&datagram) else {
            continue;
        };
        let now_us = clock::now_us();
        let answer = Pong {
            ping_sent_us: ping.sent_us,
            received_us: now_us,
            sent_us: now_us,
        };
        let _ = connection.send_datagram(answer.encode());
    }
}

/// A connector with one line, "Camera 1", that goes nowhere.
struct Studio {
    tunnels: Tunnels,
    lines: Lines,
    line: u32,
    shutdown: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
    folder: tempfile::TempDir,
}

impl Studio {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lines = Lines::open_to_play(
            folder.path(),
            Delay::Normal,
            Outputs::null_only(),
            OutputKind::Null,
            Decoders::default(),
        )
        .unwrap();
        let line = lines.add("Camera 1", None).unwrap().id;
        let tunnels = Tunnels::open(
            folder.path(),
            lines.clone(),
            Settings::default(),
            Events::open(folder.path()),
        )
        .unwrap();
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let (lines, shutdown) = (lines.clone(), shutdown.clone());
            async move { lines.run(shutdown).await }
        });
        tasks.spawn({
            let (tunnels, shutdown) = (tunnels.clone(), shutdown.clone());
            async move { tunnels.run(shutdown).await }
        });
        let studio = Self {
            tunnels,
            lines,
            line,
            shutdown,
            tasks,
            folder,
        };
        studio
            .until("the line plays", || studio.lines.handle(line).is_some())
            .await;
        studio
    }

    /// Remembers the relay, as after a join.
    fn knows(&self, relay: &FakeRelay) {
        let token = relay.token();
        let relay = Relay {
            addresses: token.addresses,
            pins: token.pins,
            studio: token.studio,
            ingest: IngestAddresses::default(),
            https_port: None,
        };
        lock(&self.tunnels.shared.book).add(relay).unwrap();
        self.tunnels.shared.changes.send_modify(|n| *n += 1);
    }

    fn relay(&self) -> RelaySnapshot {
        self.tunnels.snapshot().remove(0)
    }

    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let since = Instant::now();
        while !is_so() {
            assert!(since.elapsed() < WAIT, "not within {WAIT:?}: {what}");
            time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap().unwrap();
        }
    }
}

fn unit(line: u32, seq: u64, len: usize) -> Unit {
    let now_us = clock::now_us();
    Unit {
        line,
        publisher: 5,
        seq,
        ingest_us: now_us,
        baseline_us: now_us,
        queued_us: 0,
        access_unit: AccessUnit {
            codec: Codec::H264,
            track: 0,
            keyframe: seq == 0,
            disposable: false,
            discontinuity: false,
            dts_us: i64::try_from(seq).unwrap() * 33_333,
            cts_us: 0,
            config: (seq == 0).then(|| Bytes::from_static(b"config")),
            payload: vec![0; len].into(),
        },
    }
}

#[tokio::test]
async fn joining_redeems_the_token_and_remembers_the_relay() {
    let relay = FakeRelay::start().await;
    let studio = Studio::start().await;
    let token = relay.token();
    let join = studio.tunnels.join(&token);
    let answer = async {
        let mut guest = relay.accept().await;
        let FromConnector::Enrol { token, secret, .. } = guest.hear().await else {
            panic!("no enrolment");
        };
        assert_eq!((token.as_str(), secret.expose()), ("t1", "s3cret"));
        guest
            .say(&FromRelay::Enrolled {
                studio: "truck1".into(),
                ingest: IngestAddresses::default(),
            })
            .await;
        guest.connection.closed().await;
    };
    let (joined, ()) = tokio::join!(join, answer);
    let joined = joined.unwrap();
    assert_eq!(joined.studio, "truck1");
    assert_eq!(joined.relay, relay.address.to_string());

    let _guest = relay.welcome().await;
    studio
        .until("connected", || {
            studio.relay().state == RelayState::Connected
        })
        .await;
    let again = Book::open(&studio.folder.path().join(BOOK_FILE)).unwrap();
    assert_eq!(again.relays()[0].pins, [relay.identity.spki()]);
    studio.tunnels.leave("127.0.0.1").unwrap();
    assert_eq!(studio.tunnels.snapshot().len(), 0);
    assert_eq!(
        studio.tunnels.leave("127.0.0.1").unwrap_err().to_string(),
        "there is no relay \"127.0.0.1\"; none was joined"
    );
    studio.stop().await;
}

#[tokio::test]
async fn each_way_not_to_join_has_its_sentence_and_exit_code() {
    let relay = FakeRelay::start().await;
    let studio = Studio::start().await;

    let mut other_key = relay.token();
    other_key.pins = vec![Spki([7; 32])];
    let accept = async {
        // The handshake fails here too.
        let incoming = relay.endpoint.accept().await.unwrap();
        assert!(incoming.await.is_err());
    };
    let (error, ()) = tokio::join!(studio.tunnels.join(&other_key), accept);
    let error = error.unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Refused);
    assert!(
        error
            .to_string()
            .contains("another key than this relay's answers there"),
        "{error}"
    );

    let token = relay.token();
    let refuse = async {
        let mut guest = relay.accept().await;
        guest.hear().await;
        guest
            .say(&FromRelay::Refused {
                code: Close::Token.code(),
                message: "the join token is used up; ask for a new one".into(),
            })
            .await;
        guest.connection.closed().await;
    };
    let (error, ()) = tokio::join!(studio.tunnels.join(&token), refuse);
    let error = error.unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Refused);
    assert_eq!(
        error.to_string(),
        "the join token is used up; ask for a new one"
    );

    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut nowhere = relay.token();
    nowhere.addresses = vec![nobody.local_addr().unwrap().to_string()];
    let error = studio.tunnels.join(&nowhere).await.unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Unavailable);
    assert!(error.to_string().contains("can't be reached"), "{error}");
    assert_eq!(studio.tunnels.snapshot().len(), 0, "nothing is remembered");
    studio.stop().await;
}

#[tokio::test]
async fn lines_are_declared_and_their_feeds_arrive() {
    let relay = FakeRelay::start().await;
    let studio = Studio::start().await;
    studio.knows(&relay);
    let mut guest = relay.welcome().await;
    let (generation, declared) = guest.declared().await;
    let line = &studio.lines.set().lines[0];
    assert_eq!(declared.len(), 1);
    assert_eq!(
        (declared[0].line, declared[0].key_hash.as_str()),
        (studio.line, line.key.hash(&SALT).to_hex().as_str())
    );
    guest
        .say(&FromRelay::Declared {
            generation,
            refused: vec![],
        })
        .await;

    studio.lines.add("Camera 2", None).unwrap();
    let (newer, declared) = guest.declared().await;
    assert_eq!(declared.len(), 2);
    assert!(newer > generation);

    // Units may come before the word of their feed, and before the relay's clock is known.
    guest.send_unit(&unit(studio.line, 0, 300_000)).await;
    guest
        .say(&FromRelay::FeedStarted {
            line: studio.line,
            publisher: 5,
            encoder: "Larix".into(),
            peer: "192.0.2.1:5000".into(),
            protocol: "rtmp".into(),
            agent: String::new(),
        })
        .await;
    let handle = studio.lines.handle(studio.line).unwrap();
    let feed = async {
        for seq in 1..50 {
            guest.send_unit(&unit(studio.line, seq, 2_000)).await;
        }
        studio
            .until("all units came", || {
                handle.snapshot().video.units_total == 50
            })
            .await;
        guest
            .say(&FromRelay::FeedStatus {
                feeds: vec![FeedReport {
                    line: studio.line,
                    publisher: 5,
                    encoder_lag_ms: Some(42),
                    bitrate_bps: Some(6_000_000),
                    stalled_ms: None,
                    accepted_lag_ms: 0,
                    held: 0,
                }],
                lost_percent: Some(1.5),
            })
            .await;
        studio
            .until("the report came", || {
                handle.snapshot().encoder_lag_ms == Some(42)
                    && studio.relay().lost_percent == Some(1.5)
            })
            .await;
    };
    feed.await;
    assert_eq!(studio.relay().state, RelayState::Connected);
    assert_eq!(studio.relay().ingest.hosts, ["relay.example"]);
    assert!(studio.relay().rtt_ms.is_some());
    studio.stop().await;
}

/// A relay may be another's machine, and be taken over: what it names and says stays within bounds.
#[tokio::test]
async fn a_hostile_relay_can_neither_name_lines_nor_move_the_operators_cursor() {
    let relay = FakeRelay::start().await;
    let studio = Studio::start().await;
    studio.knows(&relay);
    let mut guest = relay.welcome().await;
    guest.declared().await;
    for line in [studio.line, studio.line + 1_000] {
        guest
            .say(&FromRelay::FeedStarted {
                line,
                publisher: 5,
                encoder: "Larix\u{1b}[2J".into(),
                peer: "192.0.2.7:5\n".into(),
                protocol: "rtmp".into(),
                agent: String::new(),
            })
            .await;
        guest
            .say(&FromRelay::FeedEnded {
                line,
                publisher: 5,
                reason: "\u{1b}[31mgone\r\n".into(),
            })
            .await;
    }
    guest
        .say(&FromRelay::Declared {
            generation: 1,
            refused: vec![RefusedLine {
                line: 1,
                message: "\u{1b}]0;evil\u{7}".repeat(500),
            }],
        })
        .await;
    studio
        .until("the remark", || studio.relay().reason.is_some())
        .await;
    let remark = studio.relay().reason.unwrap();
    assert!(remark.len() <= 400 && !remark.contains(char::is_control));
    let snapshot = || studio.lines.handle(studio.line).unwrap().snapshot();
    studio
        .until("the end", || {
            (snapshot().reason).is_some_and(|reason| reason.contains("[31mgone,"))
        })
        .await;
    drop(guest);
    studio.stop().await;
}

/// Without a clock nothing can be played; what a relay sends meanwhile is held to a bound.
#[test]
fn a_relay_without_a_clock_can_not_fill_the_memory() {
    let mut early = session::Early::default();
    for seq in 0..10 {
        early.push(unit(1, seq, 8 * 1024 * 1024), 0);
    }
    assert_eq!(
        early.take().len(),
        1,
        "two of the largest, with their headers, are too much"
    );
    for seq in 0..1_000 {
        early.push(unit(1, seq, 1_000), 0);
    }
    assert_eq!(early.take().len(), 256);
}

#[tokio::test]
async fn a_restarted_relay_is_found_again_and_told_everything_again() {
    let relay = FakeRelay::start().await;
    let studio = Studio::start().await;
    studio.knows(&relay);
    let mut guest = relay.welcome().await;
    let (generation, _) = guest.declared().await;
    let FakeRelay {
        identity,
        endpoint,
        address,
    } = relay;
    close(&guest.connection, Close::Bye);
    endpoint.wait_idle().await;
    drop((guest, endpoint));
    studio
        .until("dialling", || studio.relay().state == RelayState::Dialing)
        .await;
    let reason = studio.relay().reason.unwrap();
    assert!(reason.contains("stops or restarts"), "{reason}");

    let relay = FakeRelay::start_at(address, identity).await;
    let since = Instant::now();
    let mut guest = relay.welcome().await;
    assert_eq!(guest.declared().await.0, generation);
    assert!(since.elapsed() < Duration::from_secs(5));
    studio
        .until("connected", || {
            studio.relay().state == RelayState::Connected && studio.relay().reason.is_none()
        })
        .await;
    studio.stop().await;
}

#[tokio::test]
async fn a_silent_relay_is_dialled_again_after_two_seconds() {
    let relay = FakeRelay::start().await;
    let studio = Studio::start().await;
    studio.knows(&relay);
    let mut guest = relay.welcome().await;
    guest.declared().await;
    let since = Instant::now();
    guest.pings.abort_all();
    let _guest = relay.welcome().await;
    let elapsed = since.elapsed();
    assert!(
        (Duration::from_millis(1_500)..Duration::from_secs(4)).contains(&elapsed),
        "{elapsed:?}"
    );
    studio.stop().await;
}

#[tokio::test]
async fn a_refusal_is_shown_in_the_relays_words_and_not_retried_soon() {
    let relay = FakeRelay::start().await;
    let studio = Studio::start().await;
    studio.knows(&relay);
    let mut guest = relay.accept().await;
    guest.hear().await;
    guest
        .say(&FromRelay::Refused {
            code: Close::Unknown.code(),
            message: "the relay does not know this connector".into(),
        })
        .await;
    guest.send.finish().unwrap();
    let _ = guest.send.stopped().await;
    close(&guest.connection, Close::Unknown);
    studio
        .until("refused", || studio.relay().state == RelayState::Refused)
        .await;
    assert_eq!(
        studio.relay().reason.as_deref(),
        Some("the relay does not know this connector")
    );
    let again = time::timeout(Duration::from_millis(700), relay.endpoint.accept()).await;
    assert!(again.is_err(), "it is not tried again at once");
    studio.stop().await;
}

#[tokio::test]
async fn a_relay_of_a_later_version_is_understood() {
    let relay = FakeRelay::start().await;
    let studio = Studio::start().await;
    studio.knows(&relay);
    let mut guest = relay.accept().await;
    guest.hear().await;
    for json in [
        r#"{"type":"motd","text":"hello"}"#.to_owned(),
        format!(
            r#"{{"type":"welcome","version":1,"studio":"truck1","salt":"{}","software":"r 9","ingest":{{"hosts":[],"rtmp_port":null,"rtmps_port":null,"srt_port":9000}},"region":"eu"}}"#,
            to_hex(&SALT)
        ),
        r#"{"type":"cue","line":1,"text":"on air in 10"}"#.to_owned(),
    ] {
        let mut bytes = u32::try_from(json.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(json.into_bytes());
        guest.send.write_all(&bytes).await.unwrap();
    }
    guest.declared().await;
    // A unit of a later layout is left out; the session goes on.
    let mut stream = guest.connection.open_uni().await.unwrap();
    stream.write_all(&[2; 100]).await.unwrap();
    stream.finish().unwrap();
    studio
        .until("connected", || {
            studio.relay().state == RelayState::Connected
        })
        .await;
    studio.stop().await;
}

fn close(connection: &Connection, close: Close) {
    connection.close(VarInt::from_u32(close.code()), b"");
}

/// What the relay says of a second encoder reaches the operator, and what the operator says reaches the relay.
#[tokio::test]
async fn a_second_encoder_is_a_question_and_its_answer_goes_to_its_relay() {
    let relay = FakeRelay::start().await;
    let studio = Studio::start().await;
    studio.knows(&relay);
    let mut guest = relay.welcome().await;
    guest.declared().await;
    let events = Events::open(studio.folder.path());
    let control = Control::new(
        studio.lines.clone(),
        studio.tunnels.clone(),
        Health::default(),
        events,
    );
    let ask = |request| control.result(request);
    let name = || "Camera 1".to_owned();
    let refused = ask(Request::TakeLine {
        name: name(),
        publisher: None,
    })
    .await;
    assert!(refused.unwrap_err().message.contains("no other encoder"));

    let claim = |publisher| Claim {
        publisher,
        encoder: "Larix\u{1b}[2J".into(),
        peer: "192.0.2.7:5000".into(),
        since_unix: 1_795_235_400,
    };
    for held in [vec![claim(8)], vec![claim(8), claim(9)]] {
        let count = held.len();
        guest
            .say(&FromRelay::Claims {
                line: studio.line,
                held,
                refused: vec![claim(6)],
                frozen: false,
            })
            .await;
        studio
            .until("the claims", || {
                control.status().lines[0].held.len() == count
            })
            .await;
    }
    let status = control.status();
    let line = serde_json::to_value(&status.lines[0]).unwrap();
    assert_eq!(line["held"][1]["publisher"], 9);
    assert_eq!(line["held"][0]["encoder"], "Larix[2J");
    assert_eq!(line["held"][0]["since"], "2026-11-21T04:30:00Z");
    assert_eq!(line["held"][0]["relay"], relay.address.to_string());
    assert_eq!(line["refused"][0]["publisher"], 6);
    let reason = line["reason"].as_str().unwrap();
    assert!(
        reason.contains("2 more encoders use this line's key: Larix[2J, 192.0.2.7;"),
        "{reason}"
    );

    let unclear = ask(Request::TakeLine {
        name: name(),
        publisher: None,
    })
    .await;
    assert!(
        unclear
            .unwrap_err()
            .message
            .contains("say which number: 8 (Larix")
    );
    ask(Request::TakeLine {
        name: name(),
        publisher: Some(9),
    })
    .await
    .unwrap();
    let (line, publisher) = (studio.line, 9);
    assert_eq!(guest.hear().await, FromConnector::Take { line, publisher });
    ask(Request::RefuseLine {
        name: name(),
        publisher: Some(8),
    })
    .await
    .unwrap();
    assert_eq!(
        guest.hear().await,
        FromConnector::Refuse { line, publisher: 8 }
    );
    // One that was refused may be let in again.
    ask(Request::TakeLine {
        name: name(),
        publisher: Some(6),
    })
    .await
    .unwrap();
    assert_eq!(
        guest.hear().await,
        FromConnector::Take { line, publisher: 6 }
    );

    // What a relay said is gone with it.
    guest.connection.close(0_u32.into(), b"");
    studio
        .until("the claims are gone", || {
            control.status().lines[0].held.is_empty()
        })
        .await;
    studio.stop().await;
}
