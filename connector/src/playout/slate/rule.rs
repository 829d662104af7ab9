//! What a source without a picture shows: decided from tally and time alone. Pure.
//!
//! - While a picture of the feed is on the screen it stays for `hold`, and without limit while the source is on program
//!   or was within [`OFF_PROGRAM_US`].
//! - Then the card comes and stays until the feed is back: a line that is cut to program while its card is shown keeps
//!   the card, because a picture from minutes ago would look live.
//! - A card has something to read only while it is known that nobody has it on program: a receiver has been connected
//!   for [`SETTLED_US`] and no tally said program for [`OFF_PROGRAM_US`]. Without a receiver nobody could read it, and
//!   the first picture that a new receiver gets is the last one sent before it said anything: that one must be clean.
//!
//! NDI® does not tell a receiver that has a source off from one that sends no tally at all: both count as off. A studio
//! whose switcher sends no tally sets `hold = forever` and leaves `slate` clean.

use crate::{output::Receivers, playout::Tally};

/// What a source shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::playout) enum Shown {
    /// A picture of a feed; the last one is held.
    Picture,
    /// The card with nothing to read.
    Bare,
    /// The card with all that is on it.
    Full,
}

/// What receivers did, as far as it matters.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::playout) struct Rule {
    /// When it was last seen on program.
    program_us: Option<i64>,
    /// Since when there has been a receiver.
    audience_us: Option<i64>,
}

impl Rule {
    /// Notes what receivers do now.
    pub(in crate::playout) fn note(&mut self, receivers: Option<Receivers>, now_us: i64) {
        if receivers.is_some_and(|receivers| receivers.tally == Tally::Program) {
            self.program_us = Some(now_us);
        }
        let has_audience = receivers.is_some_and(|receivers| receivers.connections > 0);
        self.audience_us = has_audience.then(|| self.audience_us.unwrap_or(now_us));
    }

    /// What is to be shown after `shown`, `idle_us` after the last picture of a feed. `hold_us` of `None` is without
    /// limit. A picture that comes is shown whatever this says.
    pub(in crate::playout) fn decide(
        &self,
        shown: Shown,
        idle_us: i64,
        hold_us: Option<i64>,
        now_us: i64,
    ) -> Shown {
        let is_off_program = self
            .program_us
            .is_none_or(|program_us| now_us - program_us >= OFF_PROGRAM_US);
        let is_held = hold_us.is_none_or(|hold_us| idle_us < hold_us.max(HOLD_MIN_US));
        if shown == Shown::Picture && (is_held || !is_off_program) {
            return Shown::Picture;
        }
        let is_settled = self
            .audience_us
            .is_some_and(|audience_us| now_us - audience_us >= SETTLED_US);
        if is_off_program && is_settled {
            Shown::Full
        } else {
            Shown::Bare
        }
    }
}

/// What was on program so recently may be cut back to.
const OFF_PROGRAM_US: i64 = 10_000_000;

/// A receiver says what it does with a source within milliseconds of its connection; a switcher that starts, or finds a
/// restarted source again, within less than this.
const SETTLED_US: i64 = 1_000_000;

/// Between two pictures of a slow feed no card may flash up.
const HOLD_MIN_US: i64 = 500_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: i64 = 1_000_000;

    const fn receivers(connections: u32, tally: Tally) -> Receivers {
        Receivers { connections, tally }
    }

    /// What a line whose feed ended at 60 s shows at a time, second by second.
    fn shown_at(history: &[(i64, u32, Tally)], hold_s: Option<i64>, at_s: i64) -> Shown {
        let mut rule = Rule::default();
        let mut shown = Shown::Bare;
        for now_ms in 0..=at_s * 1000 {
            let now_us = now_ms * 1000;
            let said = history
                .iter()
                .rev()
                .find(|(from_s, ..)| from_s * S <= now_us);
            rule.note(said.map(|(_, n, tally)| receivers(*n, *tally)), now_us);
            if (10 * S..60 * S).contains(&now_us) {
                shown = Shown::Picture;
            }
            let idle_us = if now_us < 10 * S {
                i64::MAX
            } else {
                (now_us - 60 * S).max(0)
            };
            shown = rule.decide(shown, idle_us, hold_s.map(|s| s * S), now_us);
        }
        shown
    }

    /// The feed comes at 10 s and is lost at 60 s. Each row: what receivers said (from second, receivers, tally), the
    /// hold, and what is shown at which second.
    #[expect(clippy::too_many_lines, reason = "a table")]
    #[test]
    fn tally_loss_and_settings_decide_what_is_shown() {
        use Shown::{Bare, Full, Picture};
        use Tally::{Off, Preview, Program};
        type Row<'a> = (
            &'a str,
            &'a [(i64, u32, Tally)],
            Option<i64>,
            &'a [(i64, Shown)],
        );
        let rows: &[Row<'_>] = &[
            (
                "nobody watches: the card comes, and nothing is on it that a new receiver could get",
                &[(0, 0, Off)],
                Some(2),
                &[
                    (5, Bare),
                    (30, Picture),
                    (61, Picture),
                    (62, Bare),
                    (600, Bare),
                ],
            ),
            (
                "off program: the name before the first feed and after the hold",
                &[(0, 1, Off)],
                Some(2),
                &[
                    (0, Bare),
                    (1, Full),
                    (9, Full),
                    (61, Picture),
                    (62, Full),
                    (600, Full),
                ],
            ),
            (
                "preview is off program",
                &[(0, 1, Preview)],
                Some(2),
                &[(9, Full), (61, Picture), (62, Full)],
            ),
            (
                "on program all the time: the last picture without limit",
                &[(0, 1, Program)],
                Some(2),
                &[
                    (0, Bare),
                    (9, Bare),
                    (61, Picture),
                    (62, Picture),
                    (3_000, Picture),
                ],
            ),
            (
                "cut away just before the loss: it may be cut back to for 10 s",
                &[(0, 1, Program), (58, 1, Off)],
                Some(2),
                &[(62, Picture), (67, Picture), (68, Full)],
            ),
            (
                "cut away during the hold on program: 10 s more",
                &[(0, 1, Program), (100, 1, Off)],
                Some(2),
                &[(99, Picture), (109, Picture), (110, Full)],
            ),
            (
                "taken to program while the last picture is held: it stays",
                &[(0, 1, Off), (61, 1, Program)],
                Some(2),
                &[(61, Picture), (62, Picture), (600, Picture)],
            ),
            (
                "taken to program with its card: the card stays and loses all that can be read at once",
                &[(0, 1, Off), (70, 1, Program), (80, 1, Off)],
                Some(2),
                &[(69, Full), (70, Bare), (80, Bare), (89, Bare), (90, Full)],
            ),
            (
                "the switcher leaves and comes back on program: it never gets anything to read",
                &[(0, 1, Off), (70, 0, Off), (80, 1, Program)],
                Some(2),
                &[(69, Full), (70, Bare), (79, Bare), (80, Bare), (90, Bare)],
            ),
            (
                "a hold of its own",
                &[(0, 1, Off)],
                Some(30),
                &[(89, Picture), (90, Full)],
            ),
            (
                "a hold without limit",
                &[(0, 1, Off)],
                None,
                &[(9, Full), (62, Picture), (3_000, Picture)],
            ),
            (
                "a hold of nothing still bridges two pictures of a slow feed",
                &[(0, 1, Off)],
                Some(0),
                &[(60, Picture), (61, Full)],
            ),
        ];
        for (what, history, hold_s, expected) in rows {
            for (at_s, shown) in *expected {
                assert_eq!(
                    shown_at(history, *hold_s, *at_s),
                    *shown,
                    "{what}: at {at_s} s"
                );
            }
        }
    }

    #[test]
    fn an_output_that_can_not_tell_shows_nothing_to_read() {
        let mut rule = Rule::default();
        for now_us in [0, S, 100 * S] {
            rule.note(None, now_us);
            assert_eq!(
                rule.decide(Shown::Bare, i64::MAX, None, now_us),
                Shown::Bare
            );
        }
    }

    proptest! {
        /// The rule that outranks features, over any history.
        #[test]
        fn nothing_to_read_is_on_program_or_was_within_ten_seconds(
            steps in prop::collection::vec((1..4_000_i64, 0..3_u32, 0..4_u8, any::<bool>()), 1..200),
            hold_s in prop::option::of(0..20_i64),
        ) {
            let mut rule = Rule::default();
            let (mut shown, mut now_us, mut fed_us) = (Shown::Bare, 0, None::<i64>);
            let mut program_us = None::<i64>;
            for (step_ms, connections, tally, is_fed) in steps {
                now_us += step_ms * 1000;
                let tally = [Tally::Off, Tally::Preview, Tally::Program, Tally::Unknown][usize::from(tally)];
                rule.note(Some(receivers(connections, tally)), now_us);
                if tally == Tally::Program {
                    program_us = Some(now_us);
                }
                let was = shown;
                if is_fed {
                    (shown, fed_us) = (Shown::Picture, Some(now_us));
                }
                let idle_us = fed_us.map_or(i64::MAX, |fed_us| now_us - fed_us);
                shown = rule.decide(shown, idle_us, hold_s.map(|s| s * S), now_us);
                let was_on_program = program_us.is_some_and(|us| now_us - us < 10 * S);
                prop_assert!(!(was_on_program && shown == Shown::Full));
                prop_assert!(!(was_on_program && was == Shown::Picture && shown != Shown::Picture));
                prop_assert!(!(shown == Shown::Picture && was != Shown::Picture && !is_fed), "no old picture comes back");
            }
        }
    }
}
