//! Encoders that use a line's key and do not have the line: gathered from the relays and the playout, and what the
//! operator decides about them.

use firstmile_shared::{
    clock, date,
    exit::{ExitCode, Failure},
    tunnel::control::{Claim, FromConnector},
};

use super::{Control, Decided, Resynced};
use crate::{
    playout::{LineSnapshot, LineState},
    status::{LineStatus, Rival, out_of_reach},
    tunnel::RelaySnapshot,
};

impl Control {
    pub(super) fn line_status(
        &self,
        id: u32,
        mut snapshot: LineSnapshot,
        relays: &[RelaySnapshot],
    ) -> LineStatus {
        if snapshot.state == LineState::Waiting
            && let Some(reason) = out_of_reach(relays)
        {
            snapshot.reason = Some(reason);
        }
        let (held, mut frozen) = self.held_here(id);
        let mut held = held;
        let mut refused = Vec::new();
        let mut findings = Vec::new();
        for relay in relays {
            if snapshot.relay.as_ref() == Some(&relay.address)
                && let Some(found) = relay.findings.get(&id)
            {
                findings.clone_from(found);
            }
            let Some(claims) = relay.claims.get(&id) else {
                continue;
            };
            frozen |= claims.frozen;
            let rival = |claim: &Claim| Rival {
                publisher: claim.publisher,
                encoder: claim.encoder.clone(),
                peer: claim.peer.clone(),
                relay: relay.address.clone(),
                since: date::rfc3339(claim.since_unix),
            };
            held.extend(claims.held.iter().map(rival));
            refused.extend(claims.refused.iter().map(rival));
        }
        if let Some(question) = question(&held, frozen) {
            snapshot.reason = Some(match snapshot.reason.take() {
                Some(reason) => format!("{reason}; {question}"),
                None => question,
            });
        }
        // Somebody who is held is the one to decide about.
        if snapshot.state == LineState::Slate
            && held.is_empty()
            && let Some(remark) = shut_out(&refused)
        {
            snapshot.reason = Some(match snapshot.reason.take() {
                Some(reason) => format!("{reason}; {remark}"),
                None => remark,
            });
        }
        LineStatus {
            id,
            snapshot,
            held,
            refused,
            findings,
            frozen,
        }
    }

    /// Makes the encoder that has the line start again at live.
    pub(super) fn resync(&self, name: &str) -> Result<Resynced, Failure> {
        let line = self.lines.find(name)?;
        let status = self.status().lines.into_iter();
        let status = status.into_iter().find(|status| status.id == line.id);
        let status = status.ok_or_else(|| {
            Failure::unavailable(
                "only a running firstmile-connector reaches encoders: start it first",
            )
        })?;
        let snapshot = status.snapshot;
        let (Some(relay), Some(encoder)) = (snapshot.relay, snapshot.encoder) else {
            return Err(Failure::unavailable(format!(
                "no encoder sends to {:?}",
                line.name
            )));
        };
        if !self
            .tunnels
            .say(&relay, FromConnector::Resync { line: line.id })
        {
            return Err(Failure::unavailable(format!(
                "the relay {relay} is not connected: {encoder} is not reached by this"
            )));
        }
        Ok(Resynced {
            line: line.name,
            encoder,
            encoder_lag_ms: snapshot.encoder_lag_ms,
        })
    }

    /// Gives the line to an encoder that waits, or lets one that was refused try again.
    pub(super) fn take(&self, name: &str, publisher: Option<u32>) -> Result<Decided, Failure> {
        let (line, status) = self.rivals_of(name)?;
        if let Some(rival) = choose(&line, &status.held, publisher)? {
            let is_here =
                (self.lines.handle(status.id)).is_some_and(|handle| handle.take(rival.publisher));
            if !is_here {
                let (line, publisher) = (status.id, rival.publisher);
                self.say(&rival, FromConnector::Take { line, publisher })?;
            }
            return Ok(Decided {
                line,
                rival,
                is_readmitted: false,
            });
        }
        let Some(rival) = choose(&line, &status.refused, publisher)? else {
            return Err(nobody(&line, publisher));
        };
        let (number, publisher) = (status.id, rival.publisher);
        self.say(
            &rival,
            FromConnector::Take {
                line: number,
                publisher,
            },
        )?;
        Ok(Decided {
            line,
            rival,
            is_readmitted: true,
        })
    }

    /// Sends an encoder away that waits.
    pub(super) fn refuse(&self, name: &str, publisher: Option<u32>) -> Result<Decided, Failure> {
        let (line, status) = self.rivals_of(name)?;
        let Some(rival) = choose(&line, &status.held, publisher)? else {
            return Err(nobody(&line, publisher));
        };
        let (number, publisher) = (status.id, rival.publisher);
        self.say(
            &rival,
            FromConnector::Refuse {
                line: number,
                publisher,
            },
        )?;
        Ok(Decided {
            line,
            rival,
            is_readmitted: false,
        })
    }

    /// Feeds of other relays that the line's playout holds.
    fn held_here(&self, id: u32) -> (Vec<Rival>, bool) {
        let Some(handle) = self.lines.handle(id) else {
            return (Vec::new(), false);
        };
        let (held, frozen) = handle.held_feeds();
        let (now_us, now_unix) = (clock::now_us(), clock::unix_now());
        let rivals = held.into_iter().map(|feed| Rival {
            publisher: feed.info.publisher,
            encoder: feed.info.encoder,
            peer: feed.info.peer,
            relay: feed.info.relay,
            since: date::rfc3339(now_unix - (now_us - feed.came_us) / 1_000_000),
        });
        (rivals.collect(), frozen)
    }

    fn rivals_of(&self, name: &str) -> Result<(String, LineStatus), Failure> {
        let line = self.lines.find(name)?;
        let status = self
            .status()
            .lines
            .into_iter()
            .find(|status| status.id == line.id);
        let status = status.ok_or_else(|| {
            Failure::unavailable(
                "only a running firstmile-connector knows who waits: start it first",
            )
        })?;
        Ok((line.name, status))
    }

    fn say(&self, rival: &Rival, message: FromConnector) -> Result<(), Failure> {
        if self.tunnels.say(&rival.relay, message) {
            return Ok(());
        }
        Err(Failure::unavailable(format!(
            "the relay {} is not connected: {} is not reached by this",
            rival.relay,
            rival.who()
        )))
    }
}

/// The one that is meant; `None` when nobody is here, or not this one.
fn choose(line: &str, rivals: &[Rival], publisher: Option<u32>) -> Result<Option<Rival>, Failure> {
    match (publisher, rivals) {
        (Some(number), _) => Ok((rivals.iter().find(|rival| rival.publisher == number)).cloned()),
        (None, []) => Ok(None),
        (None, [only]) => Ok(Some(only.clone())),
        (None, several) => {
            let list: Vec<_> = (several.iter())
                .map(|rival| format!("{} ({})", rival.publisher, rival.who()))
                .collect();
            Err(Failure::new(
                ExitCode::Usage,
                format!(
                    "several encoders are meant by {line:?}: say which number: {}",
                    list.join(", ")
                ),
            ))
        }
    }
}

fn nobody(line: &str, publisher: Option<u32>) -> Failure {
    Failure::unavailable(match publisher {
        Some(number) => format!("no encoder with the number {number} waits for {line:?}"),
        None => format!("no other encoder waits for {line:?}"),
    })
}

/// What the operator is asked.
fn question(held: &[Rival], frozen: bool) -> Option<String> {
    let who: Vec<_> = held.iter().map(Rival::who).collect();
    let asked = match who.as_slice() {
        [] if frozen => {
            return Some(
                "encoders took this line from each other: it stays as it is until one is gone"
                    .to_owned(),
            );
        }
        [] => return None,
        [one] => format!("a second encoder uses this line's key: {one}: take or refuse it"),
        many => format!(
            "{} more encoders use this line's key: {}: take or refuse them",
            many.len(),
            many.join("; ")
        ),
    };
    Some(if frozen {
        format!(
            "encoders took this line from each other, so it stays as it is until you decide; {asked}"
        )
    } else {
        asked
    })
}

/// Who tries in vain while the line has no picture, as far as is known.
fn shut_out(refused: &[Rival]) -> Option<String> {
    let who: Vec<_> = refused.iter().map(Rival::who).collect();
    (!who.is_empty()).then(|| {
        format!(
            "{} was refused: `line take` lets it in again",
            who.join("; ")
        )
    })
}
