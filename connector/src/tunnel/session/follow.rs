//! A second connection of one session: dialled when the first is silent, or to come back from TCP to QUIC.
//!
//! The first stays until the second was welcomed. After silence the feeds then begin with their newest keyframe; where the
//! first still delivers, the relay moves each feed over at its next keyframe (`hello`'s `handover`), and what was on its
//! way is taken from the first until all have moved.

use std::{collections::BTreeSet, future::pending, pin::Pin, time::Duration};

use firstmile_shared::{clock, supervisor::random, tunnel::control::FromConnector};
use tokio::time::{self, Instant};
use tracing::{debug, info, warn};

use super::{
    super::{
        RelayState, Status,
        dial::{Dialed, Dialer, Ways},
        ended::{Ended, SILENCE_MAX},
        link::{Arrival, Link, Way},
    },
    Session, WELCOME_TIMEOUT, Welcome, hello,
};
use crate::events::Kind;

/// Why a second connection is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Nothing came over the first.
    Silence,
    /// The first goes over TCP.
    Probe,
}

/// A connection that may follow the one in use.
pub(super) struct Successor {
    why: Why,
    stage: Stage,
}

enum Stage {
    Dialing(Pin<Box<dyn Future<Output = Result<Dialed, Ended>> + Send>>),
    /// The relay was greeted: from now on there is no way back.
    Greeting(Pin<Box<dyn Future<Output = Result<Opened, Ended>> + Send>>),
}

/// A connection that was welcomed.
pub(super) struct Opened {
    link: Link,
    address: String,
    welcome: Welcome,
}

/// The connection before, as long as something may come of it.
pub(super) struct Former {
    link: Link,
    since: Instant,
    /// Lines whose units come over the new one.
    moved: BTreeSet<u32>,
    /// Since when all have moved.
    done: Option<Instant>,
    has_said_bye: bool,
}

impl Successor {
    fn new(dialer: &Dialer, why: Why) -> Self {
        let dialer = dialer.clone();
        let ways = match why {
            // After so long, nobody knows which way is open.
            Why::Silence => Ways::AT_ONCE,
            Why::Probe => Ways::QuicOnly,
        };
        Self {
            why,
            stage: Stage::Dialing(Box::pin(async move { Ok(dialer.dial(ways).await?) })),
        }
    }

    /// Whether it is better to wait for it than to dial anew: a probe looks for one way only.
    const fn is_promising(&self) -> bool {
        matches!(
            (self.why, &self.stage),
            (Why::Silence, _) | (_, Stage::Greeting(_))
        )
    }

    /// Cancel-safe; not to be called again after an answer.
    async fn next(&mut self, is_needed: impl Fn() -> bool) -> Result<Opened, Ended> {
        if let Stage::Dialing(dialing) = &mut self.stage {
            let dialed = dialing.await?;
            if !is_needed() {
                return Err(Ended::Stopped);
            }
            let is_handover = self.why == Why::Probe;
            self.stage = Stage::Greeting(Box::pin(greet(dialed, is_handover)));
        }
        match &mut self.stage {
            Stage::Greeting(greeting) => greeting.await,
            Stage::Dialing(_) => pending().await,
        }
    }
}

async fn greet(dialed: Dialed, is_handover: bool) -> Result<Opened, Ended> {
    let Dialed { mut link, address } = dialed;
    let welcome = time::timeout(WELCOME_TIMEOUT, hello(&mut link, is_handover)).await;
    match welcome.unwrap_or(Err(Ended::NoWelcome)) {
        Ok(welcome) => Ok(Opened {
            link,
            address,
            welcome,
        }),
        Err(ended) => {
            link.close(ended.close()).await;
            Err(ended)
        }
    }
}

/// What of the second connection has happened, for [`Session::followed`].
pub(super) async fn next_opened(
    successor: &mut Option<Successor>,
    heard: Instant,
) -> Result<Opened, Ended> {
    let Some(successor) = successor else {
        return pending().await;
    };
    let why = successor.why;
    let is_needed = move || why == Why::Probe || heard.elapsed() > SILENCE_MAX / 2;
    successor.next(is_needed).await
}

/// What comes over the connection before.
pub(super) async fn next_of_former(former: &mut Option<Former>) -> Result<Arrival, Ended> {
    match former {
        Some(former) => former.link.next().await,
        None => pending().await,
    }
}

impl Session<'_> {
    /// At each heartbeat: whether a second connection is needed.
    pub(super) fn look_after(&mut self, status: &Status) {
        self.leave_former();
        let now = Instant::now();
        let silent = now.duration_since(self.heard);
        if silent > SILENCE_MAX && !self.is_silent {
            self.is_silent = true;
            let reason = Ended::Silent.to_string();
            warn!(reason, "dialling a second connection to the relay");
            status.update(|snapshot| {
                snapshot.state = RelayState::Dialing;
                snapshot.reason = Some(reason);
                snapshot.rtt_ms = None;
                snapshot.lost_percent = None;
            });
            self.next_dial = now;
            if self
                .successor
                .as_ref()
                .is_some_and(|it| it.why == Why::Probe)
            {
                self.successor = None;
            }
        } else if silent <= SILENCE_MAX && self.is_silent {
            self.is_silent = false;
            info!("the relay is heard again over the first connection");
            status.update(|snapshot| {
                snapshot.state = RelayState::Connected;
                snapshot.reason = None;
            });
            self.next_dial = now + self.probe_every;
        }
        if self.successor.is_some() || now < self.next_dial {
            return;
        }
        if self.is_silent {
            self.successor = Some(Successor::new(self.dialer, Why::Silence));
        } else if self.way() == Way::Tcp && self.former.is_none() {
            self.next_dial = now + self.probe_every;
            self.successor = Some(Successor::new(self.dialer, Why::Probe));
        }
    }

    /// The second connection is welcomed, or it is not: then the answer may be the session's end.
    pub(super) fn followed(
        &mut self,
        opened: Result<Opened, Ended>,
        status: &Status,
    ) -> Option<Ended> {
        let why = self.successor.take().map(|successor| successor.why)?;
        match opened {
            Ok(opened) => {
                self.follow(opened, why, status);
                None
            }
            Err(ended) => {
                if let Some(gone) = self.gone.take() {
                    // Neither way.
                    return Some(if ended.is_refusal() { ended } else { gone });
                }
                debug!(reason = %ended, ?why, "no second connection");
                if why == Why::Silence && self.is_silent {
                    if ended.is_refusal() {
                        return Some(ended);
                    }
                    status.update(|snapshot| snapshot.reason = Some(ended.to_string()));
                    self.next_dial = Instant::now() + self.backoff.next_wait(random());
                }
                None
            }
        }
    }

    fn follow(&mut self, opened: Opened, why: Why, status: &Status) {
        let Opened {
            link,
            address,
            welcome,
        } = opened;
        let transport = link.way().name();
        let before = std::mem::replace(&mut self.link, link);
        let is_alive = why == Why::Probe && self.gone.is_none();
        self.gone = None;
        self.former = is_alive.then(|| Former {
            link: before,
            since: Instant::now(),
            moved: BTreeSet::default(),
            done: None,
            has_said_bye: false,
        });
        self.address = address;
        self.studio = welcome.studio;
        self.salt = welcome.salt;
        self.ingest = welcome.ingest;
        self.heard = Instant::now();
        self.is_silent = false;
        self.backoff.reset();
        self.next_dial = Instant::now() + self.probe_every;
        // What was said to the relay is forgotten with the connection.
        self.told = Default::default();
        self.played.clear();
        self.asked.clear();
        self.sets.mark_changed();
        self.say_show();
        self.unconfirmed.clone_from(&self.feeds);
        self.clock.new_path();
        for (pong, now_us) in welcome.pongs {
            self.clock.record(pong, now_us);
        }
        for (unit, arrived_us) in welcome.early.into_units() {
            self.deliver(unit, arrived_us);
        }
        let text = match why {
            Why::Silence => format!("a second connection to the relay took over, {transport}"),
            Why::Probe => "the tunnel is back from TCP to UDP".to_owned(),
        };
        info!(transport, "{text}");
        let (address, studio, ingest) = (
            self.address.clone(),
            self.studio.clone(),
            self.ingest.clone(),
        );
        status.update(|snapshot| {
            snapshot.state = RelayState::Connected;
            snapshot.reason = None;
            snapshot.address = address;
            snapshot.transport = transport;
            snapshot.studio = Some(studio);
            snapshot.ingest = ingest;
            snapshot.declared = None;
        });
        status.note(Kind::RelayConnected, text);
    }

    /// What came over the connection before: units that were on their way.
    pub(super) fn hear_former(&mut self, arrival: Result<Arrival, Ended>) {
        match arrival {
            Ok(Arrival::Unit(Ok(unit))) => self.deliver(unit, clock::now_us()),
            Ok(Arrival::Message(message)) => self.hear_of_drops(&message),
            Ok(Arrival::Pong(_) | Arrival::Unit(Err(_))) => {}
            Err(ended) => {
                debug!(reason = %ended, "the connection before is over");
                self.former = None;
            }
        }
    }

    /// A unit of this line came over the connection in use.
    pub(super) fn has_moved(&mut self, line: u32) {
        if let Some(former) = &mut self.former {
            former.moved.insert(line);
        }
    }

    /// The connection before ends when all feeds have moved and what was on its way had time to come.
    fn leave_former(&mut self) {
        let Some(former) = &mut self.former else {
            return;
        };
        let have_all_moved = (self.feeds.iter()).all(|(line, _)| former.moved.contains(line));
        if have_all_moved {
            former.done.get_or_insert_with(Instant::now);
        }
        let is_over = former.done.is_some_and(|at| at.elapsed() > LINGER)
            || former.since.elapsed() > HANDOVER_MAX;
        if is_over && !std::mem::replace(&mut former.has_said_bye, true) {
            former.link.say(&FromConnector::Bye {
                reason: "it goes on over another connection".to_owned(),
            });
        } else if former.since.elapsed() > HANDOVER_MAX + LINGER {
            self.former = None;
        }
    }

    /// The connection in use is gone. `None`: another may follow it.
    pub(super) fn lost(&mut self, ended: Ended) -> Option<Ended> {
        let is_awaited = (self.successor.as_ref()).is_some_and(Successor::is_promising);
        let is_final = matches!(&ended, Ended::Refused { .. } | Ended::Stopped);
        if !is_awaited || is_final {
            return Some(ended);
        }
        warn!(reason = %ended, "the first connection to the relay is gone; waiting for the second");
        self.gone = Some(ended);
        None
    }
}

/// GOPs are shorter.
const HANDOVER_MAX: Duration = Duration::from_secs(12);

/// What is on its way comes within the delay, or is late.
const LINGER: Duration = Duration::from_secs(1);
