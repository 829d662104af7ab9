//! What is done about an encoder that is behind: a verdict once a second. Pure: times are arguments, microseconds.
//!
//! An encoder that catches up is left alone, however late it is: closing its connection would cost it a second or two
//! of what it is about to deliver. One that does not would stay late for the rest of the show, and the studio shows
//! nothing that is older than its delay. Silence is no evidence of either: a connection that carries nothing can't be
//! told anything.

use firstmile_shared::tunnel::control::LagPolicy;

/// What a line's settings and its studio say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What is to be done.
    pub policy: LagPolicy,
    /// The lag that is too much.
    pub max_lag_us: i64,
    /// The studio delay D: what is older is not shown.
    pub delay_us: i64,
    /// A receiver has the line on program, or had it a moment ago.
    pub is_on_program: bool,
}

impl Rules {
    /// The lag above which an encoder that stays there for [`STAYS_US`] is acted on. Within D nothing is lost by it.
    const fn limit_us(&self) -> i64 {
        let limit_us = if self.max_lag_us > self.delay_us {
            self.max_lag_us
        } else {
            self.delay_us
        };
        if self.is_on_program {
            limit_us.saturating_mul(2)
        } else {
            limit_us
        }
    }
}

/// What has to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Close its connection, so that it starts again at live.
    Reconnect,
    /// Live with this lag, microseconds.
    Accept(i64),
}

/// One publisher's lag, second by second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lag {
    /// Over the limit.
    over: Stay,
    /// Over D: nothing of it is shown.
    unseen: Stay,
}

/// For how long a lag has stayed over a limit without shrinking.
#[derive(Clone, Copy, Debug, Default)]
struct Stay {
    /// The lag to get below, and for how long it has been tried; `None` below the limit.
    mark: Option<(i64, i64)>,
}

impl Lag {
    /// The last `elapsed_us`: `least_us` is the age at ingest of the youngest unit that came, `None` if none did.
    pub fn second(&mut self, least_us: Option<i64>, elapsed_us: i64, rules: Rules) -> Option<Act> {
        let least_us = least_us?;
        let over_us = self.over.stayed_us(least_us, elapsed_us, rules.limit_us());
        let unseen_us = (self.unseen).stayed_us(least_us, elapsed_us, rules.delay_us);
        if over_us < STAYS_US && unseen_us < UNSEEN_US {
            return None;
        }
        Some(match rules.policy {
            LagPolicy::Reconnect => Act::Reconnect,
            LagPolicy::Accept => Act::Accept(least_us),
        })
    }

    /// Something was done about it: what follows is judged anew.
    pub fn acted(&mut self) {
        *self = Self::default();
    }
}

impl Stay {
    fn stayed_us(&mut self, lag_us: i64, elapsed_us: i64, limit_us: i64) -> i64 {
        self.mark = match self.mark {
            _ if lag_us <= limit_us => None,
            Some((mark_us, stayed_us)) if lag_us > mark_us.saturating_sub(SHRINKS_US) => {
                Some((mark_us, stayed_us.saturating_add(elapsed_us)))
            }
            _ => Some((lag_us, 0)),
        };
        self.mark.map_or(-1, |(_, stayed_us)| stayed_us)
    }
}

/// How long a lag may stay over the limit.
pub const STAYS_US: i64 = 5_000_000;

/// How long it may stay between D and the limit: nothing is shown meanwhile, on program too, so nothing is lost by acting.
pub const UNSEEN_US: i64 = 30_000_000;

/// It shrinks if it gets nearer by so much within [`STAYS_US`]: an uplink of 1.05 times the stream's rate.
pub const SHRINKS_US: i64 = 250_000;

/// A line is not acted on twice within this time.
pub const PAUSE_US: i64 = 30_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: i64 = 1_000_000;

    fn rules() -> Rules {
        Rules {
            policy: LagPolicy::Reconnect,
            max_lag_us: 3 * S,
            delay_us: 600_000,
            is_on_program: false,
        }
    }

    /// An uplink that carries `percent` of the stream, after the encoder was `start_us` behind: when it is acted on and
    /// at which lag, in virtual time. `None`: never in ten minutes, or it caught up.
    fn acted(start_us: i64, percent: i64, rules: Rules) -> Option<(i64, i64)> {
        let mut lag = Lag::default();
        let mut behind_us = start_us;
        for second in 1..600 {
            behind_us = (behind_us + S - S * percent / 100).max(0);
            if lag.second(Some(behind_us), S, rules).is_some() {
                return Some((second, behind_us / 1000));
            }
        }
        None
    }

    #[test]
    fn who_does_not_catch_up_is_acted_on_and_who_does_is_not() {
        let program = Rules {
            is_on_program: true,
            ..rules()
        };
        let long = Rules {
            delay_us: 8 * S,
            ..rules()
        };
        // (ms behind at first, percent of the stream that the uplink carries, rules, acted on: after s, at ms)
        for (start_ms, percent, rules, expected) in [
            (0, 100, rules(), None),
            (10_000, 120, rules(), None),
            (600_000, 106, rules(), None),
            (10_000, 104, rules(), Some((6, 9_760))), // Catching up would take four minutes.
            (0, 80, rules(), Some((21, 4_200))),
            (0, 80, program, Some((34, 6_800))),
            (0, 10, rules(), Some((9, 8_100))),
            (2_900, 100, rules(), Some((31, 2_900))), // Between D and the limit: nothing of it is shown.
            (2_900, 100, program, Some((31, 2_900))),
            (2_900, 103, rules(), None), // It gets nearer.
            (4_000, 100, long, None),    // All of it is shown.
            (9_000, 100, long, Some((6, 9_000))),
        ] {
            assert_eq!(
                acted(start_ms * 1000, percent, rules),
                expected,
                "{start_ms} ms, {percent} %"
            );
        }
    }

    #[test]
    fn a_lag_that_goes_up_and_down_is_no_lag_that_shrinks() {
        let mut lag = Lag::default();
        // 4 to 6 s behind, falling for two seconds and stalling for one.
        let seconds = [Some(6 * S), Some(5 * S), Some(4 * S), None];
        let acted = (0..60).position(|n| lag.second(seconds[n % 4], S, rules()).is_some());
        assert_eq!(acted, Some(9), "six seconds of media after its least");
    }

    #[test]
    fn silence_is_no_evidence() {
        let mut lag = Lag::default();
        assert_eq!(lag.second(Some(4 * S), S, rules()), None);
        for _ in 0..60 {
            assert_eq!(lag.second(None, S, rules()), None);
        }
        assert_eq!(lag.second(Some(3_500_000), S, rules()), None, "it shrank");
        assert_eq!(lag.second(Some(100_000), S, rules()), None);
        for _ in 0..5 {
            assert_eq!(lag.second(Some(10 * S), S, rules()), None, "judged anew");
        }
        assert_eq!(lag.second(Some(10 * S), S, rules()), Some(Act::Reconnect));
        lag.acted();
        assert_eq!(lag.second(Some(10 * S), S, rules()), None);
    }

    #[test]
    fn accepting_names_the_least_lag() {
        let mut lag = Lag::default();
        let rules = Rules {
            policy: LagPolicy::Accept,
            ..rules()
        };
        let acts: Vec<_> = (0..10)
            .filter_map(|n| lag.second(Some(4 * S + n), S, rules))
            .collect();
        assert_eq!(acts[0], Act::Accept(4 * S + 5));
    }

    proptest! {
        /// Whatever comes: nobody within the limits is acted on.
        #[test]
        fn within_the_delay_nothing_is_done(
            lags in prop::collection::vec(prop::option::of(any::<i64>()), 0..200),
            delay_us in 0..30 * S,
            is_on_program: bool,
        ) {
            let rules = Rules { delay_us, is_on_program, ..rules() };
            let mut lag = Lag::default();
            for least_us in lags {
                let act = lag.second(least_us, S, rules);
                if least_us.is_none_or(|us| us <= delay_us) {
                    prop_assert_eq!(act, None);
                }
            }
        }
    }
}
