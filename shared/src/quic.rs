//! QUIC as the tunnel uses it: endpoints, and every limit and window set on purpose.
//!
//! Measured on impaired links: a unit per stream needs thousands of streams in flight (quinn allows 100), live media
//! seldom fills a window (so it starts large), and CUBIC, quinn's default, collapses at 1 % of loss.

mod bounded;

use std::{fmt, io, net::UdpSocket, path::Path, str::FromStr, sync::Arc, time::Duration};

use quinn::{
    ClientConfig, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
    congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig},
    crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig},
};
use quinn_proto::HashedConnectionIdGenerator;
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};

use self::bounded::Bounded;
use crate::{
    exit::Failure,
    ops, os,
    secret::{from_hex, to_hex},
    tls::{self, Identity, Pins},
    tunnel::control::MESSAGE_LEN_MAX,
};

/// Silence after which a connection is dead. The connector gives up earlier, by its heartbeat.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// All bytes that an unauthenticated peer can make the relay hold for it, besides TLS's own 16 KiB.
pub const STRANGER_WINDOW: u32 = 64 * 1024;

/// How often a connector sends something: an address change of its modem went unnoticed for 169 ms with this,
/// for 1029 ms with a second.
pub const KEEP_ALIVE: Duration = Duration::from_millis(150);

/// Streams that a connector grants before it knows its lines, and at least.
pub const STREAMS_MIN: u32 = 4096;

/// Streams that a connector grants: 100 units a second for each line, twice the time that one may be on its way.
pub fn streams_max(lines: usize, longest_delay: Duration) -> u32 {
    let units = (lines as u128).saturating_mul(longest_delay.as_millis()) * 2 * 100 / 1000;
    let streams = u32::try_from(units).unwrap_or(u32::MAX).saturating_add(128);
    streams.clamp(STREAMS_MIN, STREAMS_CAP)
}

/// What an operator can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Which congestion controller.
    pub congestion: Congestion,
    /// Whether the kernel may cut large sends into packets (GSO). Some drivers claim it and can't.
    pub segmentation_offload: bool,
}

impl Default for Transport {
    fn default() -> Self {
        Self {
            congestion: Congestion::default(),
            segmentation_offload: true,
        }
    }
}

/// A congestion controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// Holds its rate through random loss; queues in a dip.
    #[default]
    Bbr,
    /// The same, its window held to what the path has lately carried: little queues in a dip.
    Bounded,
    /// For clean links only: delivered 55 of 600 pictures in time at 1 % of loss.
    Cubic,
    /// For comparison.
    NewReno,
}

impl Congestion {
    fn factory(self) -> Arc<dyn ControllerFactory + Send + Sync> {
        match self {
            Self::Bbr => {
                let mut config = BbrConfig::default();
                config.initial_window(INITIAL_WINDOW);
                Arc::new(config)
            }
            Self::Bounded => Arc::new(Bounded::new(Self::Bbr.factory())),
            Self::Cubic => {
                let mut config = CubicConfig::default();
                config.initial_window(INITIAL_WINDOW);
                Arc::new(config)
            }
            Self::NewReno => {
                let mut config = NewRenoConfig::default();
                config.initial_window(INITIAL_WINDOW);
                Arc::new(config)
            }
        }
    }
}

impl FromStr for Congestion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "bbr" => Ok(Self::Bbr),
            "bounded" => Ok(Self::Bounded),
            "cubic" => Ok(Self::Cubic),
            "newreno" => Ok(Self::NewReno),
            _ => Err(format!("{text:?} is none of bbr, bounded, cubic, newreno")),
        }
    }
}

impl fmt::Display for Congestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bbr => "bbr",
            Self::Bounded => "bounded",
            Self::Cubic => "cubic",
            Self::NewReno => "newreno",
        })
    }
}

/// What makes stateless resets: kept over a restart, it lets a relay end the connections of its former life at
/// once, instead of after [`IDLE_TIMEOUT`].
///
/// Two things have to last for that: the key of the resets themselves, and the one by which a relay recognises the
/// connection IDs of its former life. quinn answers IDs that it does not recognise with silence. Both come from here.
#[derive(Clone)]
pub struct ResetKey([u8; 32]);

impl fmt::Debug for ResetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResetKey(***)")
    }
}

impl ResetKey {
    /// The key in `file`; made and written (mode 0600) if there is none, or not a key of ours.
    pub fn load_or_create(file: &Path) -> Result<Self, Failure> {
        let fail =
            |error: &io::Error| Failure::io(format_args!("key file {}", file.display()), error);
        match std::fs::read_to_string(file) {
            Ok(text) => {
                let is_private = os::is_private_owner(file).map_err(|error| fail(&error))?;
                if let Some(key) = from_hex(text.trim()).filter(|_| is_private) {
                    return Ok(Self(key));
                }
            }
            // `InvalidData`: not even text.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidData
                ) => {}
            Err(error) => return Err(fail(&error)),
        }
        // Losing it costs each connector a wait of seconds, once: no reason to stop a start.
        let key = Self::random();
        ops::write_atomic(file, to_hex(&key.0).as_bytes()).map_err(|error| fail(&error))?;
        Ok(key)
    }

    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }

    /// The key of the connection IDs. Their check is a quick hash that gives its key away to whoever sees many of
    /// them, so it is not the key of the resets.
    fn connection_ids(&self) -> u64 {
        let tag = hmac::sign(&self.hmac(), b"connection ids");
        tag.as_ref()
            .first_chunk()
            .map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    /// One that does not last.
    ///
    /// # Panics
    /// Never in practice: only if the operating system has no random numbers.
    #[expect(
        clippy::expect_used,
        reason = "without random numbers there is no safe way on"
    )]
    pub fn random() -> Self {
        let mut key = [0; 32];
        SystemRandom::new()
            .fill(&mut key)
            .expect("the operating system has random numbers");
        Self(key)
    }
}

/// Why a QUIC configuration could not be made.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
#[non_exhaustive]
pub enum QuicError {
    /// TLS refused the identity.
    Tls(#[from] rustls::Error),
    /// The crypto provider lacks AES-128-GCM.
    Cipher(#[from] NoInitialCipherSuite),
    /// The socket could not be used.
    Io(#[from] io::Error),
}

/// The relay's endpoint on a bound socket.
pub fn listen(
    socket: UdpSocket,
    identity: &Identity,
    reset_key: &ResetKey,
    transport: Transport,
) -> Result<Endpoint, QuicError> {
    let crypto = QuicServerConfig::try_from(tls::server_config(identity)?)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(relay_transport(transport)))
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFER * INCOMING_MAX as u64)
        .migration(true);
    let mut endpoint = EndpointConfig::new(Arc::new(reset_key.hmac()));
    let connection_ids = reset_key.connection_ids();
    endpoint
        .cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(connection_ids)))
        .min_reset_interval(RESET_INTERVAL_MIN);
    Ok(Endpoint::new(
        endpoint,
        Some(config),
        socket,
        Arc::new(TokioRuntime),
    )?)
}

/// A connector's endpoint on a bound socket; with [`client_config`] for each dial.
pub fn dialer(socket: UdpSocket) -> io::Result<Endpoint> {
    Endpoint::new(
        EndpointConfig::default(),
        None,
        socket,
        Arc::new(TokioRuntime),
    )
}

/// What a connector dials with.
pub fn client_config(
    identity: &Identity,
    pins: Arc<Pins>,
    transport: Transport,
) -> Result<ClientConfig, QuicError> {
    let crypto = QuicClientConfig::try_from(tls::client_config(identity, pins)?)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(connector_transport(transport)));
    Ok(config)
}

/// What a stranger gets: one bidirectional stream and 64 KiB. A connector that is known sends no more than
/// control messages, so it stays so.
fn relay_transport(settings: Transport) -> TransportConfig {
    let mut transport = common_transport(settings);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STRANGER_WINDOW))
        .receive_window(VarInt::from_u32(STRANGER_WINDOW))
        .datagram_receive_buffer_size(Some(4 * 1024))
        // The session lowers it to the congestion window; until then only control messages leave.
        .send_window(SEND_WINDOW_START);
    transport
}

fn connector_transport(settings: Transport) -> TransportConfig {
    let mut transport = common_transport(settings);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_MIN))
        .stream_receive_window(VarInt::from_u32(UNIT_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTOR_WINDOW))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .send_window(4 * MESSAGE_LEN_MAX as u64)
        .keep_alive_interval(Some(KEEP_ALIVE));
    transport
}

fn common_transport(settings: Transport) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .congestion_controller_factory(settings.congestion.factory())
        .enable_segmentation_offload(settings.segmentation_offload)
        .max_idle_timeout(Some(IdleTimeout::from(IDLE_TIMEOUT_MS)))
        .initial_rtt(Duration::from_millis(100))
        .datagram_send_buffer_size(DATAGRAM_BUFFER)
        // Of two units of one class the older completes first, instead of both late.
        .send_fairness(false);
    transport
}

/// 64 packets: a keyframe leaves in two round trips, not in five.
const INITIAL_WINDOW: u64 = 64 * 1200;

const IDLE_TIMEOUT_MS: VarInt = VarInt::from_u32(10_000);

/// One unit: the largest, 8 MiB, needs it extended once.
const UNIT_WINDOW: u32 = 4 * 1024 * 1024;

/// 50 Mbit/s for 2.5 s: the most that a relay can have on its way without an answer.
const CONNECTOR_WINDOW: u32 = 16 * 1024 * 1024;

const SEND_WINDOW_START: u64 = 256 * 1024;

/// Clock samples are all that travels as datagrams.
const DATAGRAM_BUFFER: usize = 64 * 1024;

/// Handshakes that wait to be looked at; the accept loop has its own, lower limits.
const INCOMING_MAX: usize = 512;

const INCOMING_BUFFER: u64 = 16 * 1024;

/// After a restart every connector is to hear of it within its first ping or two: 500 in a second. Whoever sends as many
/// packets with IDs that were once ours gets less back than it sent.
const RESET_INTERVAL_MIN: Duration = Duration::from_millis(2);

/// 256 lines at 3 s.
const STREAMS_CAP: u32 = 160_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_follow_the_lines() {
        // (lines, delay in ms, streams)
        for (lines, delay_ms, streams) in [
            (0, 0, 4_096),
            (4, 600, 4_096),
            (50, 600, 6_128),
            (256, 3_000, 153_728),
            (usize::MAX, 60_000, 160_000),
        ] {
            let delay = Duration::from_millis(delay_ms);
            assert_eq!(
                streams_max(lines, delay),
                streams,
                "{lines} lines, {delay:?}"
            );
        }
    }

    #[test]
    fn controllers_have_names() {
        for name in ["bbr", "cubic", "newreno"] {
            assert_eq!(name.parse::<Congestion>().unwrap().to_string(), name);
        }
        assert_eq!(
            Congestion::default(),
            Congestion::Bbr,
            "never CUBIC unasked"
        );
        let error = "BBR3".parse::<Congestion>().unwrap_err();
        assert_eq!(error, "\"BBR3\" is none of bbr, bounded, cubic, newreno");
    }

    #[test]
    fn the_reset_key_lasts_and_a_broken_one_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("reset.key");
        let first = ResetKey::load_or_create(&file).unwrap();
        assert_eq!(ResetKey::load_or_create(&file).unwrap().0, first.0);
        let mut last = first.0;
        for broken in [&b"?"[..], b"\xff\xfe not text"] {
            ops::write_atomic(&file, broken).unwrap();
            let anew = ResetKey::load_or_create(&file).unwrap();
            assert_ne!(anew.0, last);
            assert_eq!(ResetKey::load_or_create(&file).unwrap().0, anew.0);
            last = anew.0;
        }
    }

    /// The relay is killed: it says nothing. Its next life has to end the connection as soon as it hears of it.
    #[tokio::test]
    async fn a_relays_next_life_ends_the_connections_of_its_former_one_at_once() {
        let identity = Identity::ephemeral().unwrap();
        let key = ResetKey::random();
        // An ungraceful end: the first relay's packets go nowhere from one moment on, by way of a forwarder that changes
        // its mind. `None` is nowhere.
        let front = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = front.local_addr().unwrap();
        let (goal, goals) = tokio::sync::watch::channel(None);
        let mut forwarder = tokio::task::JoinSet::new();
        forwarder.spawn(forward(front, goals));
        let relay = |key: &ResetKey| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            let endpoint = listen(socket, &identity, key, Transport::default()).unwrap();
            let address = endpoint.local_addr().unwrap();
            (endpoint, address)
        };
        let (first, first_address) = relay(&key);
        goal.send(Some(first_address)).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let endpoint = dialer(socket).unwrap();
        let pins = Pins::new(vec![identity.spki()]);
        let config =
            client_config(&Identity::ephemeral().unwrap(), pins, Transport::default()).unwrap();
        let dialled = endpoint
            .connect_with(config, address, tls::SERVER_NAME)
            .unwrap();
        let accepted = async { first.accept().await.unwrap().accept().unwrap().await };
        let (dialled, accepted) = tokio::join!(dialled, accepted);
        let (dialled, _accepted) = (dialled.unwrap(), accepted.unwrap());

        goal.send(None).unwrap();
        let (_second, second_address) = relay(&key);
        goal.send(Some(second_address)).unwrap();
        let since = std::time::Instant::now();
        let end = dialled.closed().await;
        assert_eq!(end, quinn::ConnectionError::Reset);
        // One keep-alive, with room for a busy machine.
        assert!(since.elapsed() < 5 * KEEP_ALIVE, "{:?}", since.elapsed());
        forwarder.shutdown().await;
    }

    /// Between one peer and the relay of the moment.
    async fn forward(
        front: tokio::net::UdpSocket,
        mut goals: tokio::sync::watch::Receiver<Option<std::net::SocketAddr>>,
    ) {
        let back = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut peer = None;
        let (mut out, mut home) = ([0; 2048], [0; 2048]);
        loop {
            tokio::select! {
                got = front.recv_from(&mut out) => {
                    let (len, from) = got.unwrap();
                    peer = Some(from);
                    let goal = *goals.borrow_and_update();
                    if let Some(goal) = goal {
                        back.send_to(&out[..len], goal).await.unwrap();
                    }
                }
                got = back.recv_from(&mut home) => {
                    let (len, from) = got.unwrap();
                    let goal = *goals.borrow_and_update();
                    if goal == Some(from) && let Some(peer) = peer {
                        front.send_to(&home[..len], peer).await.unwrap();
                    }
                }
            }
        }
    }
}
