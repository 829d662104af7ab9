//! From a relay's addresses to a connection whose other end has the pinned key.
//!
//! Names are resolved afresh at each dial. All addresses are tried, IPv6 and IPv4 in turn, each a moment after the
//! one before; the first that is the right relay wins (happy eyeballs, RFC 8305).

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use firstmile_shared::{
    config::Listen,
    net,
    quic::{self, Transport},
    tls::{Identity, Pins, SERVER_NAME, Spki, WrongPin},
};
use quinn::{Connection, ConnectionError, Endpoint};
use tokio::{
    net::lookup_host,
    task::JoinSet,
    time::{self, Instant},
};

/// A connection to the right relay, not yet greeted.
#[derive(Debug)]
pub(super) struct Dialed {
    pub(super) connection: Connection,
    /// The address, of those that were given, that led there.
    pub(super) address: String,
    /// Lives as long as the connection.
    pub(super) endpoint: Endpoint,
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

/// Tries all addresses; takes [`DIAL_TIMEOUT`] at most.
pub(super) async fn dial(
    addresses: &[String],
    pins: &[Spki],
    identity: &Identity,
    transport: Transport,
) -> Result<Dialed, DialError> {
    let mut failures = Failures::default();
    let mut candidates = VecDeque::from(resolve(addresses, &mut failures).await);
    let mut attempts = JoinSet::new();
    let deadline = Instant::now() + DIAL_TIMEOUT;
    let mut next_at = Instant::now();
    while !(attempts.is_empty() && candidates.is_empty()) {
        tokio::select! {
            biased;
            Some(ended) = attempts.join_next() => match ended {
                // The other attempts end when the set is dropped; their connections are closed with them.
                Ok(Ok(dialed)) => return Ok(dialed),
                Ok(Err(failed)) => {
                    failures.add(failed);
                    // No need to wait for the next turn.
                    next_at = Instant::now();
                }
                Err(_) => {}
            },
            () = time::sleep_until(next_at), if !candidates.is_empty() => {
                if let Some(candidate) = candidates.pop_front() {
                    let (identity, pins) = (identity.clone(), pins.to_vec());
                    attempts.spawn(attempt(candidate, pins, identity, transport));
                }
                next_at = Instant::now() + STAGGER;
            }
            () = time::sleep_until(deadline) => {
                failures.timed_out(addresses);
                break;
            }
        }
    }
    Err(failures.into_error())
}

#[derive(Debug)]
struct Candidate {
    address: String,
    socket: SocketAddr,
}

struct Failed {
    address: String,
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
async fn resolve(addresses: &[String], failures: &mut Failures) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for address in addresses {
        let found = time::timeout(RESOLVE_TIMEOUT, lookup_host(address.as_str())).await;
        let reason = match found {
            Ok(Ok(sockets)) => {
                let sockets = in_turn(sockets);
                if !sockets.is_empty() {
                    candidates.extend(sockets.into_iter().map(|socket| Candidate {
                        address: address.clone(),
                        socket,
                    }));
                    continue;
                }
                "the name has no address".to_owned()
            }
            Ok(Err(error)) => format!("the name can't be resolved ({error})"),
            Err(_) => "the name can't be resolved (no answer from the name server)".to_owned(),
        };
        failures.tried.push((address.clone(), reason));
    }
    candidates.truncate(CANDIDATES_MAX);
    candidates
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

async fn attempt(
    candidate: Candidate,
    pins: Vec<Spki>,
    identity: Identity,
    transport: Transport,
) -> Result<Dialed, Failed> {
    let Candidate { address, socket } = candidate;
    let pins = Pins::new(pins);
    let shown = if address == socket.to_string() {
        address.clone()
    } else {
        format!("{address} ({})", socket.ip())
    };
    let fail = |reason: String, wrong_pin| Failed {
        address: shown.clone(),
        reason,
        wrong_pin,
    };
    let any = if socket.is_ipv6() { "::" } else { "0.0.0.0" };
    let bound = match net::bind_udp(&Listen::at(any, 0), "the tunnel's own port") {
        Ok(Some(bound)) => bound,
        Ok(None) => return Err(fail("no socket".to_owned(), None)),
        Err(error) => return Err(fail(error.to_string(), None)),
    };
    let endpoint = quic::dialer(bound).map_err(|error| fail(error.to_string(), None))?;
    let config = quic::client_config(&identity, pins.clone(), transport)
        .map_err(|error| fail(error.to_string(), None))?;
    let connecting = endpoint
        .connect_with(config, socket, SERVER_NAME)
        .map_err(|error| fail(error.to_string(), None))?;
    match time::timeout(ATTEMPT_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => Ok(Dialed {
            connection,
            address,
            endpoint,
        }),
        Ok(Err(error)) => {
            let wrong_pin = pins.wrong_pin();
            let reason = wrong_pin
                .as_ref()
                .map_or_else(|| reason(&error), ToString::to_string);
            Err(fail(reason, wrong_pin))
        }
        Err(_) => Err(fail(NO_ANSWER.to_owned(), None)),
    }
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

/// The connection attempt delay of RFC 8305.
const STAGGER: Duration = Duration::from_millis(250);

/// A restarted relay is found by the next attempt sooner than by the growing pauses of this one.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);
const DIAL_TIMEOUT: Duration = Duration::from_secs(8);

/// A name with more addresses than this is not a relay's.
const CANDIDATES_MAX: usize = 16;

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
        let error = dial(
            &addresses,
            &[Spki([0; 32])],
            &Identity::ephemeral().unwrap(),
            Transport::default(),
        )
        .await
        .unwrap_err()
        .to_string();
        assert!(
            error.contains("no-port: the name can't be resolved"),
            "{error}"
        );
        assert!(error.contains(&format!("{silent}: no answer")), "{error}");
    }
}
