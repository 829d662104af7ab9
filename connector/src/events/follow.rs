//! What happens to the lines, told from how they are: compares two looks. The playout has better things to do than to
//! tell; nothing here can hold it up.

use std::{collections::BTreeMap, sync::Arc};

use tracing::warn;

use super::{Event, Kind};
use crate::{
    lines::{LineSet, Lines},
    playout::{FeedInfo, LineHandle, LineSnapshot, LineState},
};

/// How the lines were at the last look.
#[derive(Debug, Default)]
pub(super) struct Follow {
    set: Option<Arc<LineSet>>,
    lines: BTreeMap<u32, Seen>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    state: LineState,
    decoder_restarts: u64,
    /// Feeds of other relays that are held.
    held: Vec<FeedInfo>,
    is_frozen: bool,
    is_stalled: bool,
}

impl Follow {
    /// What happened since the last look.
    pub(super) fn look(&mut self, lines: &Lines) -> Vec<Event> {
        let set = lines.set();
        let mut events = match &self.set {
            Some(before) => changes_of(before, &set),
            None => vec![Event::new(
                Kind::Started,
                concat!(
                    "firstmile-connector ",
                    env!("CARGO_PKG_VERSION"),
                    " started"
                ),
            )],
        };
        for line in &set.lines {
            if let Some(handle) = lines.handle(line.id) {
                let changes = handle.take_feed_changes().into_iter();
                events.extend(changes.map(|change| {
                    let text = change.to_string();
                    Event::new(Kind::TookOver, text).line(&line.name)
                }));
            }
        }
        self.set = Some(set);
        let mut seen = BTreeMap::new();
        for (id, snapshot) in lines.snapshots() {
            let handle = lines.handle(id);
            let is_stalled = handle.as_ref().is_some_and(LineHandle::is_stalled);
            let (held, is_frozen) = handle.map(|handle| handle.held_feeds()).unwrap_or_default();
            let now = Seen {
                state: snapshot.state,
                decoder_restarts: snapshot.video.decoder_restarts_total,
                held: held.into_iter().map(|feed| feed.info).collect(),
                is_frozen,
                is_stalled,
            };
            if let Some(before) = self.lines.get(&id) {
                events.extend(happened(before, &now, &snapshot));
            }
            seen.insert(id, now);
        }
        self.lines = seen;
        events
    }
}

fn changes_of(before: &LineSet, now: &LineSet) -> Vec<Event> {
    if before.generation == now.generation {
        return Vec::new();
    }
    let find = |set: &LineSet, id: u32| set.lines.iter().find(|line| line.id == id).cloned();
    let mut events = Vec::new();
    for line in &now.lines {
        match find(before, line.id) {
            None => events.push(Event::new(Kind::LineAdded, "line added").line(&line.name)),
            Some(old) if old.name != line.name => {
                let text = format!("line renamed from {:?}", old.name);
                events.push(Event::new(Kind::LineAdded, text).line(&line.name));
            }
            Some(_) => {}
        }
    }
    for line in &before.lines {
        if find(now, line.id).is_none() {
            events.push(Event::new(Kind::LineRemoved, "line removed").line(&line.name));
        }
    }
    events
}

fn happened(before: &Seen, now: &Seen, line: &LineSnapshot) -> Vec<Event> {
    let mut events = Vec::new();
    match (before.state, now.state) {
        (LineState::Live, LineState::Slate) => {
            let why = line.reason.as_deref().unwrap_or("the feed is gone");
            let text = format!("no pictures any more: {why}");
            events.push(Event::new(Kind::SlateShown, text));
        }
        (LineState::Slate | LineState::Waiting, LineState::Live) => {
            events.push(Event::new(
                Kind::PicturesShown,
                "pictures of the feed are shown",
            ));
        }
        _ => {}
    }
    if now.decoder_restarts > before.decoder_restarts {
        events.push(Event::new(
            Kind::DecoderRestarted,
            "the decoder crashed or hung and was started again",
        ));
    }
    if now.is_stalled && !before.is_stalled {
        let text =
            "the encoder's connection to the relay is there, and nothing has come by it for 2 s";
        events.push(Event::new(Kind::FeedStalled, text));
    }
    if before.is_stalled && !now.is_stalled && line.relay.is_some() {
        events.push(Event::new(Kind::FeedResumed, "the encoder sends again"));
    }
    for feed in &now.held {
        if !before.held.contains(feed) {
            let FeedInfo {
                encoder,
                peer,
                relay,
                ..
            } = feed;
            let text = format!(
                "a second encoder uses the key of this line, at relay {relay}: {encoder} from {peer}; take or refuse it"
            );
            warn!(line = line.name, "{text}");
            events.push(Event::new(Kind::Held, text));
        }
    }
    if now.is_frozen && !before.is_frozen {
        let text = "encoders took the line from each other again and again: it stays as it is until you decide";
        warn!(line = line.name, "{text}");
        events.push(Event::new(Kind::Frozen, text));
    }
    (events.into_iter())
        .map(|event| event.line(&line.name))
        .collect()
}
