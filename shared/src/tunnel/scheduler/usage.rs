//! What a line wanted to send and what it did: counts since the start, for whoever decides what fits. Pure.

use super::ticket::Ticket;

/// Bytes of one line since the start, each unit with its overhead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Sound that is played.
    pub sound_bytes: u64,
    /// Keyframes that are played.
    pub keyframe_bytes: u64,
    /// Other pictures that later ones need.
    pub reference_bytes: u64,
    /// Pictures that no other needs.
    pub disposable_bytes: u64,
    /// All that was given out.
    pub sent_bytes: u64,
}

impl Usage {
    pub(super) const fn new() -> Self {
        Self {
            sound_bytes: 0,
            keyframe_bytes: 0,
            reference_bytes: 0,
            disposable_bytes: 0,
            sent_bytes: 0,
        }
    }

    /// All that came and is played.
    pub const fn came_bytes(&self) -> u64 {
        self.sound_bytes + self.keyframe_bytes + self.reference_bytes + self.disposable_bytes
    }

    pub(super) const fn came(&mut self, ticket: &Ticket, bytes: usize) {
        let sum = if ticket.spare {
            return;
        } else if !ticket.is_video() {
            &mut self.sound_bytes
        } else if ticket.keyframe {
            &mut self.keyframe_bytes
        } else if ticket.disposable {
            &mut self.disposable_bytes
        } else {
            &mut self.reference_bytes
        };
        *sum += bytes as u64;
    }

    pub(super) const fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }
}
