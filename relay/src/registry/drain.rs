//! Emptying a relay that is going to stop, so that no show is dropped. Pure: times are arguments, microseconds.
//!
//! Nobody new is let in. Encoders that understand it are asked to connect again: behind a name that leads to another
//! relay they are there with their next keyframe. One that comes back here was asked in vain, there is no other relay:
//! it goes on as before. When the operator's time is over, those that are still here are closed, a few each second, so
//! that they do not all fall upon the next relay in the same moment.

use firstmile_shared::takeover::Look;

use crate::auth::Grant;

/// A relay that takes no new publishers.
#[derive(Debug, Default)]
pub(super) struct Drain {
    /// When the first that is still here is closed; `None`: never.
    closes_us: Option<i64>,
    /// Those that were asked to leave, and what they published.
    asked: Vec<(Grant, Look)>,
}

impl Drain {
    /// Sets, moves or removes the end.
    pub(super) fn close_at(&mut self, closes_us: Option<i64>) {
        self.closes_us = closes_us;
    }

    /// Remembers one that was asked to leave.
    pub(super) fn asked(&mut self, grant: Grant, look: Look) {
        self.asked.push((grant, look));
    }

    /// Whether one that comes now is an encoder that was sent away and found no other relay.
    pub(super) fn lets_back(&self, grant: &Grant, look: &Look, now_us: i64) -> bool {
        self.closes_us.is_none_or(|at_us| now_us < at_us)
            && (self.asked.iter()).any(|(of, asked)| of == grant && asked.is_like(look))
    }

    /// How many of `left` publishers are to be closed in this second.
    pub(super) fn to_close(&self, left: usize, now_us: i64) -> usize {
        let Some(over_us) = self.closes_us.map(|at_us| now_us.saturating_sub(at_us)) else {
            return 0;
        };
        if over_us < 0 {
            return 0;
        }
        let seconds = usize::try_from(over_us / 1_000_000).unwrap_or(usize::MAX);
        left.div_ceil(SPREAD_S.saturating_sub(seconds).max(1))
    }
}

/// Encoders come back after two seconds or more: so they do not come as one crowd.
const SPREAD_S: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_US: i64 = 1_000_000;

    #[test]
    fn those_that_stay_are_closed_a_few_each_second_when_their_time_is_over() {
        let mut drain = Drain::default();
        assert_eq!(drain.to_close(95, i64::MAX), 0, "without a time nobody is");
        drain.close_at(Some(60 * SECOND_US));
        assert_eq!(drain.to_close(95, 59 * SECOND_US), 0);
        let mut left = 95;
        let mut closed = Vec::new();
        for second in 60..72 {
            let now = drain.to_close(left, second * SECOND_US);
            left -= now;
            closed.push(now);
        }
        assert_eq!(closed, [10, 10, 10, 10, 10, 9, 9, 9, 9, 9, 0, 0]);
        drain.close_at(None);
        assert_eq!(drain.to_close(95, 90 * SECOND_US), 0, "it was called off");
    }

    #[test]
    fn one_that_was_sent_away_and_found_no_other_relay_is_let_back_in_time() {
        let look = |agent: &str, address: &str| Look {
            address: Some(address.parse().unwrap()),
            agent: agent.to_owned(),
        };
        let grant = |key: u8| Grant {
            studio: "truck1".into(),
            key: firstmile_shared::secret::KeyHash::from_hex(&format!("{key:064x}")).unwrap(),
        };
        let mut drain = Drain::default();
        drain.close_at(Some(60 * SECOND_US));
        drain.asked(grant(1), look("obs", "192.0.2.1"));
        for (key, agent, address, now_s, is_let_back) in [
            (1, "obs", "192.0.2.1", 1, true),
            (1, "obs", "192.0.2.1", 60, false),
            (2, "obs", "192.0.2.1", 1, false),
            (1, "larix", "192.0.2.1", 1, false),
            (1, "obs", "192.0.2.2", 1, false),
        ] {
            let look = look(agent, address);
            let answer = drain.lets_back(&grant(key), &look, now_s * SECOND_US);
            assert_eq!(answer, is_let_back, "{key} {agent} {address} {now_s}");
        }
    }
}
