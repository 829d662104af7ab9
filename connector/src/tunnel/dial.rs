//! From a relay's addresses to a connection whose other end has the pinned key.
//!
//! Names are resolved afresh at each dial. All addresses are tried, IPv6 and IPv4 in turn, each a moment after the
//! one before; the first that is the right relay wins (happy eyeballs, RFC 8305). TCP is tried too, after a head start for
//! QUIC: it is for networks that let no UDP through.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use firstmile_shared::{
    config::Listen,
    net,
    quic::{self, Transport},
    tcp,
    tls::{Identity, Pins, SERVER_NAME, Spki, WrongPin},
};
use quinn::ConnectionError;
use tokio::{
    net::lookup_host,
    task::JoinSet,
    time::{self, Instant},
};

use super::link::{Link, Way};

/// Whom to dial, and as whom.
#[derive(Clone, Debug)]
pub(super) struct Dialer {
    pub(super) addresses: Vec<String>,
    pub(super) pins: Vec<Spki>,
    /// Where the relay takes the tunnel beside HTTPS: a port that few networks block.
    pub(super) https_port: Option<u16>,
    pub(super) identity: Identity,
    pub(super) transport: Transport,
    /// How often QUIC is tried again from TCP.
    pub(super) probe_every: Duration,
}

/// A connection to the right relay, not yet greeted.
#[derive(Debug)]
pub(super) struct Dialed {
    pub(super) link: Link,
    /// The address, of those that were given, that led there.
    pub(super) address: String,
}

/// Which ways to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ways {
    /// QUIC, and TCP so much later.
    Both { tcp_after: Duration },
    /// To come back from TCP.
    QuicOnly,
}

impl Ways {
    /// All at once: nobody knows which is open.
    pub(super) const AT_ONCE: Self = Self::Both {
        tcp_after: Duration::ZERO,
    };

    /// All, as the last connection to this relay suggests.
    pub(super) const fn after(last: Way) -> Self {
        let tcp_after = match last {
            Way::Quic => TCP_AFTER,
            Way::Tcp => Duration::ZERO,
        };
        Self::Both { tcp_after }
    }
}

/// Why no address led to the relay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DialError {
    /// Somebody else answered, and the relay did not.
    #[error(transparent)]
    WrongPin(#[from] WrongPin),
    /// Nobody answered.
    #[error("{}", unreachable(.tried))]
    Unreachable {
        /// Each address with what happened there.
        tried: Vec<(String, String)>,
    },
}

fn unreachable(tried: &[(String, String)]) -> String {
    let list: Vec<_> = tried
        .iter()
        .map(|(address, reason)| format!("{address}: {reason}"))
        .collect();
    format!("the relay can't be reached ({})", list.join("; "))
}

impl Dialer {
    /// Tries all addresses; takes [`DIAL_TIMEOUT`] at most.
    pub(super) async fn dial(&self, ways: Ways) -> Result<Dialed, DialError> {
        let mut failures = Failures::default();
        let sockets = resolve(&self.addresses, &mut failures).await;
        let start = Instant::now();
        let mut quic = Queue::new(sockets.iter().cloned(), Way::Quic, start);
        let mut tcp = match ways {
            Ways::Both { tcp_after } => {
                let sockets = sockets.iter().flat_map(|socket| self.tcp_ports(socket));
                Queue::new(sockets, Way::Tcp, start + tcp_after)
            }
            Ways::QuicOnly => Queue::new([].into_iter(), Way::Tcp, start),
        };
        let mut attempts: JoinSet<Result<Dialed, Failed>> = JoinSet::new();
        let mut quic_attempts = quic.candidates.len();
        let deadline = start + DIAL_TIMEOUT;
        while !(attempts.is_empty() && quic.candidates.is_empty() && tcp.candidates.is_empty()) {
            if quic_attempts == 0 {
                // Nothing is waited for any more.
                tcp.next_at = tcp.next_at.min(Instant::now());
            }
            let candidate = tokio::select! {
                biased;
                Some(ended) = attempts.join_next() => {
                    match ended {
                        // The other attempts end when the set is dropped; their connections are closed with them.
                        Ok(Ok(dialed)) => return Ok(dialed),
                        Ok(Err(failed)) => {
                            // No need to wait for the next turn.
                            match failed.way {
                                Way::Quic => {
                                    quic.next_at = Instant::now();
                                    quic_attempts = quic_attempts.saturating_sub(1);
                                }
                                Way::Tcp => tcp.next_at = tcp.next_at.min(Instant::now()),
                            }
                            failures.add(failed);
                        }
                        Err(_) => {}
                    }
                    continue;
                }
                candidate = quic.next() => candidate,
                candidate = tcp.next() => candidate,
                () = time::sleep_until(deadline) => {
                    failures.timed_out(&self.addresses);
                    break;
                }
            };
            attempts.spawn(attempt(candidate, self.clone()));
        }
        Err(failures.into_error())
    }
}

impl Dialer {
    /// The port beside HTTPS first, then the tunnel's own.
    fn tcp_ports(&self, (address, socket): &(String, SocketAddr)) -> Vec<(String, SocketAddr)> {
        let beside = (self.https_port).filter(|port| *port != socket.port());
        let own = (address.clone(), *socket);
        beside
            .map(|port| (address.clone(), SocketAddr::new(socket.ip(), port)))
            .into_iter()
            .chain([own])
            .collect()
    }
}

/// What is yet to be tried one way.
struct Queue {
    candidates: VecDeque<Candidate>,
    next_at: Instant,
}

impl Queue {
    fn new(
        sockets: impl Iterator<Item = (String, SocketAddr)>,
        way: Way,
        next_at: Instant,
    ) -> Self {
        let candidates = sockets.map(|(address, socket)| Candidate {
            address,
            socket,
            way,
        });
        Self {
            candidates: candidates.collect(),
            next_at,
        }
    }

    /// The next when it is its turn; waits for ever when there is none. Cancel-safe.
    async fn next(&mut self) -> Candidate {
        if self.candidates.is_empty() {
            return std::future::pending().await;
        }
        time::sleep_until(self.next_at).await;
        self.next_at = Instant::now() + STAGGER;
        match self.candidates.pop_front() {
            Some(candidate) => candidate,
            None => std::future::pending().await,
        }
    }
}

#[derive(Debug)]
struct Candidate {
    address: String,
    socket: SocketAddr,
    way: Way,
}

struct Failed {
    address: String,
    way: Way,
    reason: String,
    wrong_pin: Option<WrongPin>,
}

#[derive(Default)]
struct Failures {
    tried: Vec<(String, String)>,
    wrong_pin: Option<WrongPin>,
}

impl Failures {
    fn add(&mut self, failed: Failed) {
        self.wrong_pin = self.wrong_pin.take().or(failed.wrong_pin);
        self.tried.push((failed.address, failed.reason));
    }

    fn timed_out(&mut self, addresses: &[String]) {
        for address in addresses {
            if !self.tried.iter().any(|(tried, _)| tried.contains(address)) {
                self.tried.push((address.clone(), NO_ANSWER.to_owned()));
            }
        }
    }

    fn into_error(self) -> DialError {
        match self.wrong_pin {
            Some(wrong) => wrong.into(),
            None => DialError::Unreachable { tried: self.tried },
        }
    }
}

/// All sockets of all addresses: IPv6 and IPv4 of each take turns.
async fn resolve(addresses: &[String], failures: &mut Failures) -> Vec<(String, SocketAddr)> {
    let mut all = Vec::new();
    for address in addresses {
        let found = time::timeout(RESOLVE_TIMEOUT, lookup_host(address.as_str())).await;
        let reason = match found {
            Ok(Ok(sockets)) => {
                let sockets = in_turn(sockets);
                if !sockets.is_empty() {
                    all.extend(sockets.into_iter().map(|socket| (address.clone(), socket)));
                    continue;
                }
                "the name has no address".to_owned()
            }
            Ok(Err(error)) => format!("the name can't be resolved ({error})"),
            Err(_) => "the name can't be resolved (no answer from the name server)".to_owned(),
        };
        failures.tried.push((address.clone(), reason));
    }
    all.truncate(SOCKETS_MAX);
    all
}

/// IPv6 first, then one of each.
fn in_turn(sockets: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (v6, v4): (Vec<_>, Vec<_>) = sockets.partition(SocketAddr::is_ipv6);
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    let mut mixed = Vec::new();
    loop {
        let (six, four) = (v6.next(), v4.next());
        if six.is_none() && four.is_none() {
            return mixed;
        }
        mixed.extend(six.into_iter().chain(four));
    }
}

async fn attempt(candidate: Candidate, dialer: Dialer) -> Result<Dialed, Failed> {
    let Candidate {
        address,
        socket,
        way,
    } = candidate;
    let pins = Pins::new(dialer.pins.clone());
    let connecting = async {
        match way {
            Way::Quic => connect_quic(socket, pins.clone(), &dialer).await,
            Way::Tcp => tcp::connect(socket, &dialer.identity, pins.clone())
                .await
                .map(Link::tcp)
                .map_err(|error| error.to_string()),
        }
    };
    let reason = match time::timeout(ATTEMPT_TIMEOUT, connecting).await {
        Ok(Ok(link)) => return Ok(Dialed { link, address }),
        Ok(Err(reason)) => reason,
        Err(_) if way == Way::Tcp => "no answer (TCP)".to_owned(),
        Err(_) => NO_ANSWER.to_owned(),
    };
    let is_own_port = address.ends_with(&format!(":{}", socket.port()));
    let shown = if address == socket.to_string() {
        address
    } else if is_own_port {
        format!("{address} ({})", socket.ip())
    } else {
        format!("{address} ({socket})")
    };
    let wrong_pin = pins.wrong_pin();
    Err(Failed {
        address: shown,
        way,
        reason: wrong_pin.as_ref().map_or(reason, ToString::to_string),
        wrong_pin,
    })
}

async fn connect_quic(
    socket: SocketAddr,
    pins: std::sync::Arc<Pins>,
    dialer: &Dialer,
) -> Result<Link, String> {
    let any = if socket.is_ipv6() { "::" } else { "0.0.0.0" };
    let bound = net::bind_udp(&Listen::at(any, 0), "the tunnel's own port")
        .map_err(|error| error.to_string())?
        .ok_or("no socket")?;
    let endpoint = quic::dialer(bound).map_err(|error| error.to_string())?;
    let config = quic::client_config(&dialer.identity, pins, dialer.transport)
        .map_err(|error| error.to_string())?;
    let connection = endpoint
        .connect_with(config, socket, SERVER_NAME)
        .map_err(|error| error.to_string())?
        .await
        .map_err(|error| reason(&error))?;
    Link::quic(connection, endpoint)
        .await
        .map_err(|ended| ended.to_string())
}

/// What an operator can do something with.
fn reason(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TimedOut => NO_ANSWER.to_owned(),
        ConnectionError::VersionMismatch => "it speaks another version of QUIC".to_owned(),
        ConnectionError::ConnectionClosed(closed) => {
            format!("it refused the connection ({closed})")
        }
        other => other.to_string(),
    }
}

const NO_ANSWER: &str =
    "no answer; is the relay running, and does every firewall on the way let UDP through?";

/// QUIC's head start: a few round trips of a slow mobile network.
const TCP_AFTER: Duration = Duration::from_millis(500);

/// The connection attempt delay of RFC 8305.
const STAGGER: Duration = Duration::from_millis(250);

/// A restarted relay is found by the next attempt sooner than by the growing pauses of this one.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);
const DIAL_TIMEOUT: Duration = Duration::from_secs(8);

/// A name with more addresses than this is not a relay's.
const SOCKETS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_families_take_turns() {
        let sockets = [
            "192.0.2.1:1",
            "192.0.2.2:1",
            "192.0.2.3:1",
            "[2001:db8::1]:1",
            "[2001:db8::2]:1",
        ];
        let mixed: Vec<_> = in_turn(sockets.iter().map(|socket| socket.parse().unwrap()))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            mixed,
            [
                "[2001:db8::1]:1",
                "192.0.2.1:1",
                "[2001:db8::2]:1",
                "192.0.2.2:1",
                "192.0.2.3:1"
            ]
        );
    }

    #[tokio::test]
    async fn every_address_is_named_with_what_happened_there() {
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let silent = silent.local_addr().unwrap().to_string();
        let addresses = ["no-port".to_owned(), silent.clone()];
        let dialer = Dialer {
            addresses: addresses.to_vec(),
            pins: vec![Spki([0; 32])],
            https_port: None,
            identity: Identity::ephemeral().unwrap(),
            transport: Transport::default(),
            probe_every: Duration::from_mins(1),
        };
        let error = dialer
            .dial(Ways::after(Way::Quic))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no-port: the name can't be resolved"),
            "{error}"
        );
        assert!(error.contains(&format!("{silent}: no answer")), "{error}");
        assert!(
            error.contains(&format!("{silent}: nobody listens there (TCP)")),
            "{error}"
        );
    }
}
