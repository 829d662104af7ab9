//! Which units of video may go to the decoder: none after a gap, until one that a decoder can start at.
//!
//! A decoder does not notice that a unit is missing: it goes on with wrong pictures, unflagged (three lost units
//! of H.264 were seen to give up to 106 of them, of H.265 107). So the gate watches the transport's own count. Pure.

/// Open while every unit since a starting point was there.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    open: bool,
    /// When the first unit was kept out since the gate closed.
    closed_since_us: Option<i64>,
}

/// What to do with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Decode it.
    Feed,
    /// Start a fresh decoder with it.
    Restart,
    /// Leave it out.
    Skip,
}

impl Gate {
    /// Decides on the next unit in decode order. `gap`: something before it is missing.
    pub fn pass(&mut self, keyframe: bool, gap: bool, now_us: i64) -> Pass {
        if gap {
            self.close();
        }
        if self.open {
            return Pass::Feed;
        }
        let closed_since_us = *self.closed_since_us.get_or_insert(now_us);
        // Streams that refresh bit by bit have no keyframe but the first. FFmpeg itself shows nothing of H.264
        // before a recovery point, so after a while it is the better judge.
        if keyframe || now_us.saturating_sub(closed_since_us) >= PATIENCE_US {
            self.open = true;
            self.closed_since_us = None;
            return Pass::Restart;
        }
        Pass::Skip
    }

    /// The decoder lost its way: wait for the next starting point.
    pub fn close(&mut self) {
        self.open = false;
    }

    /// Whether the next unit is skipped unless it is a keyframe.
    pub const fn is_closed(&self) -> bool {
        !self.open
    }
}

/// Longer than the GOPs in use (1 to 4 s, some phones 5), so ordinary streams never get this far.
const PATIENCE_US: i64 = 12_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_passes_between_a_gap_and_the_next_keyframe() {
        // K keyframe, p picture, - gap before the next one; R restart, f feed, . skip
        for (units, expected) in [
            ("Kppp", "Rfff"),
            ("ppKp", "..Rf"), // Joined in the middle of a GOP.
            ("Kp-ppKp", "Rf..Rf"),
            ("Kp-Kp", "RfRf"), // The gap ends at a keyframe.
            ("KpKp", "RfFf"),  // A keyframe while open needs no restart.
            ("-p-p-K-p", "..R."),
        ] {
            let (mut gate, mut gap, mut got) = (Gate::default(), false, String::new());
            for unit in units.chars() {
                if unit == '-' {
                    gap = true;
                    continue;
                }
                got.push(match gate.pass(unit == 'K', gap, 0) {
                    Pass::Restart => 'R',
                    Pass::Feed => 'f',
                    Pass::Skip => '.',
                });
                gap = false;
            }
            assert_eq!(got, expected.replace('F', "f"), "{units}");
        }
    }

    #[test]
    fn a_stream_without_keyframes_is_tried_after_a_while() {
        let mut gate = Gate::default();
        assert_eq!(gate.pass(false, false, 1_000), Pass::Skip);
        assert_eq!(gate.pass(false, false, PATIENCE_US), Pass::Skip);
        assert_eq!(gate.pass(false, false, PATIENCE_US + 1_000), Pass::Restart);
        assert_eq!(gate.pass(false, false, PATIENCE_US + 2_000), Pass::Feed);
        gate.close();
        assert_eq!(gate.pass(false, false, PATIENCE_US + 3_000), Pass::Skip);
    }
}
