//! What a relay says, and what becomes of it.

use std::collections::BTreeSet;

use firstmile_shared::{
    takeover::Why,
    text,
    tunnel::control::{
        FINDING_TEXT_MAX, FINDINGS_MAX, FeedReport, Finding, FromConnector, FromRelay, LINES_MAX,
        TrackReport,
    },
};
use tracing::{debug, warn};

use super::{
    super::{
        Claims, Status,
        colleague::Invited,
        ended::{Ended, printable},
    },
    Session,
};
use crate::{
    events::{Event, Kind},
    playout::{FeedInfo, LeftOut, Tally},
};

impl Session<'_> {
    pub(super) fn hear(&mut self, message: FromRelay, status: &Status) -> Option<Ended> {
        match message {
            FromRelay::FeedStarted {
                line,
                publisher,
                encoder,
                peer,
                protocol,
                agent,
            } => {
                debug!(line, protocol, "feed");
                let feed = self.feed_info(publisher, &encoder, &agent, &peer);
                self.feed_started(line, feed, status);
            }
            FromRelay::FeedEnded {
                line,
                publisher,
                reason,
            } => {
                self.feed_ended(line, publisher, printable(&reason), status);
            }
            FromRelay::FeedStatus {
                feeds,
                lost_percent,
            } => {
                status.update(|snapshot| snapshot.lost_percent = lost_percent);
                for feed in feeds {
                    self.report(&feed, status);
                }
            }
            dropped @ FromRelay::Dropped { .. } => self.hear_of_drops(&dropped),
            FromRelay::Tracks {
                line,
                publisher,
                tracks,
            } => self.tracks(line, publisher, tracks),
            FromRelay::Declared {
                generation,
                refused,
            } => {
                debug!(generation, "lines declared");
                for (line, publisher) in std::mem::take(&mut self.unconfirmed) {
                    let reason = "it left while the relay was not heard".to_owned();
                    self.feed_ended(line, publisher, reason, status);
                }
                status.update(|snapshot| snapshot.declared = Some(generation));
                let refusals: Vec<_> = refused.into_iter().map(|line| line.message).collect();
                remark(status, printable(&refusals.join("; ")));
            }
            FromRelay::Claims {
                line,
                held,
                refused,
                frozen,
            } => {
                let claims = Claims::new(held, refused, frozen);
                self.claimed(line, &claims, status);
            }
            FromRelay::Findings {
                line,
                publisher,
                findings,
            } => self.found(line, publisher, findings, status),
            FromRelay::Draining {} => {
                remark(
                    status,
                    "the relay is going to stop: it takes no new encoders".to_owned(),
                );
            }
            FromRelay::Invited {
                token,
                secret,
                expires_unix,
            } => self.invited(Ok(Invited {
                token,
                secret,
                expires_unix,
            })),
            FromRelay::NotInvited { message } => self.invited(Err(printable(&message))),
            FromRelay::Refused { code, message } => return Some(Ended::refused(code, &message)),
            // Said once.
            FromRelay::Welcome { .. } | FromRelay::Enrolled { .. } => {}
        }
        None
    }

    /// What the relay left out; it may be the word of the connection before.
    pub(super) fn hear_of_drops(&self, message: &FromRelay) {
        let &FromRelay::Dropped {
            line,
            publisher,
            from_seq,
            to_seq,
            video,
            audio,
            disposable,
            reason,
        } = message
        else {
            return;
        };
        debug!(
            line,
            from_seq,
            to_seq,
            video,
            audio,
            ?reason,
            "left out by the relay"
        );
        if let Some(handle) = self.lines.handle(line) {
            let left_out = LeftOut {
                from_seq,
                to_seq,
                video,
                disposable,
            };
            handle.dropped(publisher, left_out);
        }
    }

    fn feed_info(&self, publisher: u32, encoder: &str, agent: &str, peer: &str) -> FeedInfo {
        let encoder = printable(encoder);
        let agent = match printable(agent) {
            agent if agent.is_empty() => encoder.clone(),
            agent => agent,
        };
        FeedInfo {
            publisher,
            relay: self.address.clone(),
            encoder,
            agent,
            peer: printable(peer),
            tracks: Vec::new(),
        }
    }

    fn tracks(&self, line: u32, publisher: u32, mut tracks: Vec<TrackReport>) {
        tracks.truncate(TRACKS_MAX);
        for track in &mut tracks {
            track.codec = printable(&track.codec);
        }
        if let Some(handle) = self.lines.handle(line) {
            handle.set_tracks(publisher, &tracks);
        }
    }

    pub(super) fn invited(&mut self, answer: Result<Invited, String>) {
        if let Some(ask) = self.asked.pop_front() {
            // Whoever asked may be gone.
            let _ = ask.send(answer);
        }
    }

    pub(super) fn report(&mut self, feed: &FeedReport, status: &Status) {
        if !self.feeds.contains(&(feed.line, feed.publisher)) {
            return;
        }
        let Some(handle) = self.lines.handle(feed.line) else {
            return;
        };
        handle.report(feed);
        handle.report_stall(feed.publisher, feed.stalled_ms);
        let accepted_ms = feed.accepted_lag_ms;
        let before_ms = self.accepted.insert(feed.line, accepted_ms).unwrap_or(0);
        if accepted_ms > before_ms {
            let text = format!(
                "the encoder did not catch up, and its lag was accepted: everything of it is shown {} later than before",
                seconds(accepted_ms - before_ms)
            );
            warn!(line = self.name(feed.line), "{text}");
            self.note(feed.line, Kind::LagAccepted, text, status);
        }
    }

    /// The relay says what is wrong with a feed.
    pub(super) fn found(&self, line: u32, publisher: u32, findings: Vec<Finding>, status: &Status) {
        if !self.feeds.contains(&(line, publisher)) {
            return;
        }
        let findings: Vec<_> = (findings.into_iter().take(FINDINGS_MAX))
            .map(|finding| Finding {
                code: printable(&finding.code),
                side: printable(&finding.side),
                text: (finding.text.chars())
                    .filter(|c| !text::is_deceptive(*c))
                    .take(FINDING_TEXT_MAX)
                    .collect(),
                ..finding
            })
            .collect();
        status.update(|snapshot| {
            snapshot.findings.insert(line, findings);
        });
    }

    pub(super) fn feed_started(&mut self, line: u32, feed: FeedInfo, status: &Status) {
        self.unconfirmed.retain(|(of, _)| *of != line);
        if self.feeds.contains(&(line, feed.publisher)) {
            // The connection is another one, the feed is not.
            self.infos.insert(line, feed.clone());
            if let Some(handle) = self.lines.handle(line) {
                handle.feed_started(feed);
            }
            return;
        }
        // One for each line, and only lines that there are: a relay can name any number.
        self.feeds.retain(|(of, _)| *of != line);
        self.forget(line, status);
        let Some(handle) = self.lines.handle(line) else {
            return;
        };
        self.feeds.insert((line, feed.publisher));
        let who = format!("{} from {}", feed.encoder, feed.peer);
        let (kind, text) = match self.losers.remove(&line) {
            Some((loser, why)) => (
                Kind::TookOver,
                format!(
                    "{who} has the line now; {} from {} lost it: {why}",
                    loser.encoder, loser.peer
                ),
            ),
            None => (Kind::FeedStarted, format!("{who} sends a feed")),
        };
        self.note(line, kind, text, status);
        self.infos.insert(line, feed.clone());
        handle.feed_started(feed);
    }

    pub(super) fn feed_ended(
        &mut self,
        line: u32,
        publisher: u32,
        reason: String,
        status: &Status,
    ) {
        if self.feeds.remove(&(line, publisher)) {
            self.forget(line, status);
        }
        let Some(handle) = self.lines.handle(line) else {
            return;
        };
        let info = self.infos.remove(&line);
        if let Some(info) = info.filter(|info| info.publisher == publisher) {
            if Why::of_reason(&reason).is_some() {
                // Its successor's word follows.
                self.losers.insert(line, (info, reason.clone()));
            } else {
                let text = format!(
                    "the feed of {} from {} ended: {reason}",
                    info.encoder, info.peer
                );
                self.note(line, Kind::FeedEnded, text, status);
            }
        }
        handle.feed_ended(publisher, reason);
    }

    /// What was said of the publisher before is not said of the next.
    fn forget(&mut self, line: u32, status: &Status) {
        self.accepted.remove(&line);
        status.update(|snapshot| {
            snapshot.findings.remove(&line);
        });
    }

    /// The relay says who else uses a line's key.
    pub(super) fn claimed(&self, line: u32, claims: &Claims, status: &Status) {
        if self.lines.handle(line).is_none() {
            return;
        }
        let mut before = None;
        status.update(|snapshot| {
            before = if *claims == Claims::default() {
                snapshot.claims.remove(&line)
            } else {
                snapshot.claims.insert(line, claims.clone())
            };
        });
        let is_live = |publisher| self.feeds.contains(&(line, publisher));
        for (kind, text) in claims.news_since(&before.unwrap_or_default(), is_live) {
            if matches!(kind, Kind::Held | Kind::Frozen) {
                warn!(line = self.name(line), "{text}");
            }
            self.note(line, kind, text, status);
        }
    }

    pub(super) fn note(&self, line: u32, kind: Kind, text: String, status: &Status) {
        let event = Event::new(kind, text).relay(&self.address);
        status.shared.events.note(event.line(&self.name(line)));
    }

    pub(super) fn name(&self, line: u32) -> String {
        let set = self.lines.set();
        let known = set.lines.iter().find(|known| known.id == line);
        known.map(|line| line.name.clone()).unwrap_or_default()
    }

    /// Tells the relay which tracks are played, if that changed: the others come when nothing else does.
    pub(super) fn tell_played(&mut self) {
        for (line, publisher) in &self.feeds {
            let handle = self.lines.handle(*line);
            let Some(played) = handle.and_then(|handle| handle.played_tracks(*publisher)) else {
                continue;
            };
            let told = self.played.entry(*line).or_default();
            if *told != played {
                *told = played;
                self.link.say(&FromConnector::Play {
                    line: *line,
                    video: played.0,
                    audio: played.1,
                });
            }
        }
    }

    /// Tells the relay which lines are on air, if that changed: on program, only silence takes a line from an encoder.
    pub(super) fn tell_tally(&mut self) {
        let mut now = (BTreeSet::new(), BTreeSet::new());
        for line in self.lines.set().lines.iter().take(LINES_MAX) {
            let Some(handle) = self.lines.handle(line.id) else {
                continue;
            };
            let tally = *handle.tally().borrow();
            handle.set_on_program(tally == Tally::Program);
            match tally {
                Tally::Program => now.0.insert(line.id),
                Tally::Preview => now.1.insert(line.id),
                Tally::Off | Tally::Unknown => false,
            };
        }
        if now != self.told {
            let numbers = |lines: &BTreeSet<u32>| lines.iter().copied().collect();
            self.link.say(&FromConnector::Tally {
                program: numbers(&now.0),
                preview: numbers(&now.1),
            });
            self.told = now;
        }
    }
}

/// "4.8 s".
fn seconds(ms: u32) -> String {
    format!("{:.1} s", f64::from(ms) / 1000.0)
}

/// Shows what the relay remarks, nothing if empty; logs it once, however often it is said.
fn remark(status: &Status, reason: String) {
    let reason = (!reason.is_empty()).then_some(reason);
    let mut is_news = false;
    status.update(|snapshot| {
        is_news = snapshot.reason != reason;
        snapshot.reason.clone_from(&reason);
    });
    if let Some(reason) = reason.filter(|_| is_news) {
        warn!(reason, "the relay has a remark");
    }
}

/// More than a relay carries.
const TRACKS_MAX: usize = 32;
