//! Encoders on real sockets: what reaches the registry, and what happens to those that misbehave.

mod doors;
mod farewells;

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use bytes::BytesMut;
use firstmile_shared::{
    config::Listen,
    media::AccessUnit,
    tls::Spki,
    tunnel::{
        control::{FeedReport, Finding, TrackReport},
        unit::Unit,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};

use super::{
    publisher::{PUBLISH_PAUSE, PUBLISHES_AT_ONCE},
    *,
};
use crate::{
    auth::{
        Directory,
        tests::{directory, enrolled, line},
    },
    metrics::Metrics,
    registry::{self, Claims, FeedStart, Registry, Subscriber, Subscription},
    rtmp::{
        amf0::Value,
        chunk::{self, Message, kind},
        handshake::BLOCK_LEN,
        message::Command,
    },
    store::StoreThread,
};

#[tokio::test]
async fn a_feed_comes_in_with_its_configuration_and_its_times() {
    let mut relay = Relay::start(LIMITS).await;
    let mut phone = Phone::connect(&relay).await;
    phone.publish("truck1", "FRONT-camera").await;
    assert!(phone.is_let_in().await);
    phone.media(40).await;
    let units = relay.studio.wait_units(2).await;
    assert_eq!(units[0].dts_us, 40_000);
    assert_eq!(units[0].config.as_deref(), Some(&AVCC_TAG[5..]));
    assert_eq!(units[1].payload, &b"sound"[..]);

    phone
        .send(&command("FCUnpublish", 6.0, &["front-camera"]))
        .await;
    relay.studio.wait_text("ends: the encoder stopped").await;
    relay.stop().await;
}

#[tokio::test]
async fn the_lists_show_the_name_from_the_metadata() {
    let mut relay = Relay::start(LIMITS).await;
    let mut phone = Phone::connect(&relay).await;
    phone.publish("truck1", "front-camera").await;
    assert!(phone.is_let_in().await);
    let mut body = BytesMut::new();
    for value in [
        Value::string("onMetaData"),
        Value::object([("encoder", Value::string("obs-output module"))]),
    ] {
        crate::rtmp::amf0::encode(&value, &mut body);
    }
    phone
        .send(&Message {
            kind: kind::DATA_AMF0,
            stream: 1,
            timestamp: 0,
            payload: body.freeze(),
        })
        .await;
    eventually(|| {
        let publishers = relay.registry.publishers();
        (publishers[0].encoder == "obs-output module").then_some(())
    })
    .await;
    relay.stop().await;
}

#[tokio::test]
async fn an_encoder_that_vanishes_ends_its_feed() {
    let mut relay = Relay::start(LIMITS).await;
    let mut phone = Phone::connect(&relay).await;
    phone.publish("truck1", "front-camera").await;
    assert!(phone.is_let_in().await);
    drop(phone);
    relay.studio.wait_text("ends: the encoder").await;
    relay.stop().await;
}

#[tokio::test]
async fn an_encoder_that_only_stops_and_starts_is_slowed_down() {
    let mut relay = Relay::start(LIMITS).await;
    let mut phone = Phone::connect(&relay).await;
    phone.publish("truck1", "front-camera").await;
    for _ in 0..20 {
        phone.send(&command("FCUnpublish", 6.0, &[])).await;
        let publish = command("publish", 7.0, &["front-camera", "live"]);
        phone.send(&publish).await;
    }
    let starts = |relay: &Relay| {
        let texts = relay.studio.texts.lock().unwrap();
        texts.iter().filter(|text| text.contains("starts")).count()
    };
    let at_once = PUBLISHES_AT_ONCE as usize;
    eventually(|| (starts(&relay) >= at_once).then_some(())).await;
    let started = Instant::now();
    eventually(|| (starts(&relay) >= at_once + 2).then_some(())).await;
    let took = started.elapsed();
    assert!(took > PUBLISH_PAUSE, "two more within {took:?}");
    relay.stop().await;
}

/// Whoever tries keys learns neither that a studio exists nor that a key was close.
#[tokio::test]
async fn unknown_studios_and_wrong_keys_get_the_same_answer_after_the_same_time() {
    let mut relay = Relay::start(LIMITS).await;
    let mut answers = Vec::new();
    for (studio, key) in [
        ("truck1", "wrong-key"),
        ("truck9", "front-camera"),
        ("", ""),
    ] {
        let mut phone = Phone::connect(&relay).await;
        let asked = Instant::now();
        phone.publish(studio, key).await;
        let answer = phone.read_to_end().await;
        let took = asked.elapsed().as_millis();
        assert!((1_000..1_500).contains(&took), "{studio}: {took} ms");
        assert!(String::from_utf8_lossy(&answer).contains("NetStream.Publish.BadName"));
        answers.push(answer);
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
    assert!(
        relay
            .metrics()
            .contains("refusals_total{reason=\"unknown_key\"} 3")
    );
    relay.stop().await;
}

/// Most encoders stop for good when they are told that their key is wrong.
#[tokio::test]
async fn a_line_declared_while_its_encoder_waits_for_the_answer_lets_it_in() {
    let mut relay = Relay::start(LIMITS).await;
    let mut phone = Phone::connect(&relay).await;
    phone.publish("truck1", "second-camera").await;
    time::sleep(Duration::from_millis(200)).await;
    relay.declare(2, &["front-camera", "second-camera"]).await;
    assert!(phone.is_let_in().await);
    assert!(
        !relay
            .metrics()
            .contains("refusals_total{reason=\"unknown_key\"} 1")
    );
    relay.stop().await;
}

/// Many who connect and say nothing, as fast as they like, from the address that an encoder shares with them.
#[tokio::test]
async fn silent_connections_of_its_own_address_never_keep_an_encoder_out() {
    let limits = Limits {
        connections_per_address: 4,
        ..LIMITS
    };
    let mut relay = Relay::start(limits).await;
    let mut silent = Vec::new();
    for _ in 0..12 {
        silent.push(Phone::connect(&relay).await);
    }
    let mut phone = Phone::connect(&relay).await;
    phone.publish("truck1", "front-camera").await;
    assert!(phone.is_let_in().await);
    relay.stop().await;
}

#[tokio::test]
async fn silence_noise_and_other_protocols_are_closed_and_counted() {
    let limits = Limits {
        handshake_timeout: Duration::from_millis(300),
        ..LIMITS
    };
    let mut relay = Relay::start(limits).await;
    let silent = Phone::connect(&relay).await;
    let mut browser = Phone::connect(&relay).await;
    browser
        .socket
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let mut noise = Phone::connect(&relay).await;
    noise
        .socket
        .write_all(&[&[3][..], &[0; 2 * BLOCK_LEN], &[0xff; 500]].concat())
        .await
        .unwrap();
    for mut phone in [silent, browser, noise] {
        phone.read_to_end().await;
    }
    relay.wait_connections(0).await;
    let metrics = relay.metrics();
    assert!(
        metrics.contains("refusals_total{reason=\"too_slow\"} 1"),
        "{metrics}"
    );
    for reason in ["protocol", "http"] {
        let counted = format!("refusals_total{{reason=\"{reason}\"}} 1");
        assert!(metrics.contains(&counted), "{metrics}");
    }
    relay.stop().await;
}

#[tokio::test]
async fn nobody_who_publishes_is_cut_off_by_a_time_limit() {
    let limits = Limits {
        handshake_timeout: Duration::from_millis(200),
        ..LIMITS
    };
    let mut relay = Relay::start(limits).await;
    let mut phone = Phone::connect(&relay).await;
    phone.publish("truck1", "front-camera").await;
    assert!(phone.is_let_in().await);
    time::sleep(Duration::from_millis(600)).await;
    phone.media(1_000).await;
    relay.studio.wait_units(2).await;
    relay.stop().await;
}

#[tokio::test]
async fn the_same_encoder_that_comes_back_takes_its_line_over() {
    let mut relay = Relay::start(LIMITS).await;
    let mut ghost = Phone::connect(&relay).await;
    ghost.publish("truck1", "front-camera").await;
    assert!(ghost.is_let_in().await);
    let mut phone = Phone::connect(&relay).await;
    phone.publish("truck1", "front-camera").await;
    assert!(phone.is_let_in().await);
    ghost.read_to_end().await;
    phone.media(0).await;
    relay.studio.wait_units(2).await;
    relay.stop().await;
}

#[tokio::test]
async fn an_address_gets_no_more_than_its_share() {
    let limits = Limits {
        connections_per_address: 1,
        ..LIMITS
    };
    let mut relay = Relay::start(limits).await;
    let mut first = Phone::connect(&relay).await;
    first.publish("truck1", "front-camera").await;
    assert!(first.is_let_in().await);
    let mut second = Phone::connect(&relay).await;
    assert!(second.read_to_end().await.is_empty());
    first.media(0).await;
    relay.studio.wait_units(2).await;
    relay.stop().await;
}

#[tokio::test]
async fn strangers_can_not_keep_an_encoder_out() {
    let limits = Limits {
        connections: 3,
        ..LIMITS
    };
    let mut relay = Relay::start(limits).await;
    let mut strangers = Vec::new();
    for _ in 0..6 {
        strangers.push(Phone::connect(&relay).await);
    }
    let mut phone = Phone::connect(&relay).await;
    phone.publish("truck1", "front-camera").await;
    assert!(phone.is_let_in().await);
    relay.stop().await;
}

#[tokio::test]
async fn a_relay_that_stops_ends_every_feed() {
    let mut relay = Relay::start(LIMITS).await;
    let mut phone = Phone::connect(&relay).await;
    phone.publish("truck1", "front-camera").await;
    assert!(phone.is_let_in().await);
    relay.stop().await;
    phone.read_to_end().await;
    relay.studio.wait_text("ends: the relay is stopping").await;
}

/// The registry over a real directory, with one studio listening, behind a real listener.
struct Relay {
    address: SocketAddr,
    directory: Directory,
    connector: Spki,
    registry: Registry,
    studio: Arc<Studio>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    ingest: Option<JoinHandle<anyhow::Result<()>>>,
    _subscription: Subscription,
    _store: StoreThread,
}

impl Relay {
    async fn start(limits: Limits) -> Self {
        Self::start_as(limits, &[], None).await
    }

    /// Behind load balancers of these networks, or with TLS.
    #[expect(clippy::disallowed_methods, reason = "joined in stop")]
    async fn start_as(limits: Limits, proxies: &[&str], tls: Option<Tls>) -> Self {
        let (directory, store) = directory().await;
        let connector: Spki = enrolled(&directory, "truck1", 1).await;
        let line = line(&directory, "truck1", 1, "front-camera");
        directory.declare(connector, 1, vec![line]).await.unwrap();
        let metrics = Arc::new(Metrics::new());
        let registry = Registry::new(
            directory.clone(),
            metrics.clone(),
            registry::Limits {
                publishers: 10,
                publishers_per_studio: 10,
                connectors: 8,
                connectors_per_studio: 8,
            },
        );
        let studio = Arc::new(Studio::default());
        let subscription = registry.subscribe("truck1", connector, studio.clone(), None);

        let listener = net::bind_tcp(&Listen::at("127.0.0.1", 0), "rtmp.listen")
            .unwrap()
            .unwrap();
        let proxies: Vec<Network> = proxies.iter().map(|text| text.parse().unwrap()).collect();
        let ingest = RtmpIngest::new(listener, limits).unwrap().behind(&proxies);
        let address = ingest.local_addr().unwrap();
        let ports = Ports {
            rtmp: Some(1935),
            rtmps: Some(1936),
        };
        let ingest = ingest.with_ports(ports);
        let shutdown = CancellationToken::new();
        let desk = Desk::new(registry.clone(), metrics.clone());
        let stop = shutdown.clone();
        let run = async move {
            match tls {
                Some(tls) => ingest.secured(tls).run(desk, stop).await,
                None => ingest.run(desk, stop).await,
            }
        };
        Self {
            address,
            directory,
            connector,
            registry,
            studio,
            metrics,
            shutdown,
            ingest: Some(tokio::spawn(run)),
            _subscription: subscription,
            _store: store,
        }
    }

    /// The studio's lines from now on, by their keys.
    async fn declare(&self, generation: u64, keys: &[&str]) {
        let lines = (1..)
            .zip(keys)
            .map(|(number, key)| line(&self.directory, "truck1", number, key))
            .collect();
        (self.directory)
            .declare(self.connector, generation, lines)
            .await
            .unwrap();
    }

    async fn stop(&mut self) {
        self.shutdown.cancel();
        let ingest = self.ingest.take().unwrap();
        time::timeout(PATIENCE, ingest)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        for listener in ["rtmp", "rtmps"] {
            let none = format!("connections{{listener=\"{listener}\"}} 0");
            assert!(self.metrics().contains(&none));
        }
    }

    fn metrics(&self) -> String {
        self.metrics.render()
    }

    async fn wait_connections(&self, count: usize) {
        let text = format!("connections{{listener=\"rtmp\"}} {count}\n");
        eventually(|| self.metrics().contains(&text).then_some(())).await;
    }
}

/// A connector that keeps what it gets.
#[derive(Debug, Default)]
struct Studio {
    units: Mutex<Vec<Unit>>,
    texts: Mutex<Vec<String>>,
}

impl Studio {
    async fn wait_units(&self, count: usize) -> Vec<AccessUnit> {
        eventually(|| {
            let units = self.units.lock().unwrap();
            (units.len() >= count)
                .then(|| units.iter().map(|unit| unit.access_unit.clone()).collect())
        })
        .await
    }

    async fn wait_text(&self, text: &str) {
        eventually(|| {
            let texts = self.texts.lock().unwrap();
            texts.iter().any(|seen| seen.contains(text)).then_some(())
        })
        .await;
    }
}

impl Subscriber for Studio {
    fn feed_started(&self, feed: FeedStart) {
        self.texts
            .lock()
            .unwrap()
            .push(format!("starts: {}", feed.encoder));
    }
    fn set_delay(&self, _line: u32, _delay_ms: u32) {}
    fn deliver(&self, unit: Unit) {
        self.units.lock().unwrap().push(unit);
    }
    fn restore(&self, _: Vec<Unit>) {}
    fn feed_ended(&self, _line: u32, _publisher: u32, reason: &str) {
        self.texts.lock().unwrap().push(format!("ends: {reason}"));
    }
    fn tracks(&self, _line: u32, _publisher: u32, tracks: Vec<TrackReport>) {
        let names: Vec<_> = tracks.into_iter().map(|track| track.codec).collect();
        let text = format!("tracks: {}", names.join(", "));
        self.texts.lock().unwrap().push(text);
    }
    fn claims(&self, _line: u32, _claims: Claims) {}
    fn report(&self, _feeds: Vec<FeedReport>) {}
    fn findings(&self, _line: u32, _publisher: u32, _findings: Vec<Finding>) {}
    fn draining(&self) {}
}

/// An encoder, as simple as can be.
struct Phone<S = TcpStream> {
    socket: S,
    chunks: chunk::Encoder,
    /// Besides `app`, in `connect`.
    announces: Vec<(&'static str, Value)>,
}

impl Phone {
    async fn connect(relay: &Relay) -> Self {
        Self::over(TcpStream::connect(relay.address).await.unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Phone<S> {
    fn over(socket: S) -> Self {
        Self {
            socket,
            chunks: chunk::Encoder::default(),
            announces: Vec::new(),
        }
    }

    async fn send(&mut self, message: &Message) {
        let mut bytes = BytesMut::new();
        self.chunks.encode(&mut bytes, 3, message);
        self.socket.write_all(&bytes).await.unwrap();
    }

    /// Up to the question whether it may publish; all that is answered before is read.
    async fn publish(&mut self, studio: &str, key: &str) {
        self.socket
            .write_all(&[&[3][..], &[0; 2 * BLOCK_LEN]].concat())
            .await
            .unwrap();
        let mut answer = vec![0; 1 + 2 * BLOCK_LEN];
        self.socket.read_exact(&mut answer).await.unwrap();
        let mut connect = command("connect", 1.0, &[]);
        let mut body = BytesMut::from(&connect.payload[..connect.payload.len() - 1]);
        let mut object = vec![("app".to_owned(), Value::string(studio))];
        for (name, value) in &self.announces {
            object.push(((*name).to_owned(), value.clone()));
        }
        crate::rtmp::amf0::encode(&Value::Object(object), &mut body);
        connect.payload = body.freeze();
        self.send(&connect).await;
        self.send(&command("createStream", 4.0, &[])).await;
        self.read_until("\u{0}\u{40}\u{10}").await;
        self.send(&command("publish", 5.0, &[key, "live"])).await;
    }

    async fn is_let_in(&mut self) -> bool {
        self.read_until("NetStream.Publish.Start").await
    }

    async fn media(&mut self, timestamp: u32) {
        for (kind, body) in [
            (kind::VIDEO, AVCC_TAG),
            (kind::AUDIO, &b"\xaf\0\x12\x10"[..]),
            (kind::VIDEO, b"\x17\x01\0\0\0\0\0\0\x02\x65\x88"),
            (kind::AUDIO, b"\xaf\x01sound"),
        ] {
            self.send(&Message {
                kind,
                stream: 1,
                timestamp,
                payload: body.to_vec().into(),
            })
            .await;
        }
    }

    /// `false` if the connection ended before.
    async fn read_until(&mut self, text: &str) -> bool {
        let mut seen = Vec::new();
        loop {
            if seen
                .windows(text.len())
                .any(|bytes| bytes == text.as_bytes())
            {
                return true;
            }
            match time::timeout(PATIENCE, self.socket.read_u8())
                .await
                .unwrap()
            {
                Ok(byte) => seen.push(byte),
                Err(_) => return false,
            }
        }
    }

    async fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let read = time::timeout(PATIENCE, self.socket.read_to_end(&mut bytes)).await;
        // A reset is an end, too.
        let _ = read.expect("the relay closes the connection");
        bytes
    }
}

fn command(name: &str, transaction: f64, arguments: &[&str]) -> Message {
    let command = Command {
        name: name.to_owned(),
        transaction,
        object: Value::Null,
        arguments: arguments.iter().map(|text| Value::string(text)).collect(),
    };
    command.to_message(1)
}

async fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain");
        time::sleep(Duration::from_millis(5)).await;
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

const LIMITS: Limits = Limits {
    connections: 20,
    connections_per_address: 20,
    handshake_timeout: Duration::from_secs(5),
    idle_timeout: Duration::from_secs(5),
    unauthenticated_bytes: 64 * 1024,
    message_bytes: 8 * 1024 * 1024,
    bytes_per_second: 25_000_000,
};

const AVCC_TAG: &[u8] =
    b"\x17\0\0\0\0\x01\x42\xc0\x1f\xff\xe1\x00\x17\x67\x42\xc0\x1f\xda\x01\x40\x16\xec\x04\x40\x00\
    \x00\x03\x00\x40\x00\x00\x0f\x23\xc6\x0c\xa8\x01\x00\x04\x68\xce\x0f\xc8";
