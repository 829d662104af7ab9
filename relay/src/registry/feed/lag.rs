//! What follows when an encoder is behind: the verdicts are [`super::super::lag`]'s.

use firstmile_shared::tunnel::control::LagPolicy;
use tracing::info;

use super::{
    super::{
        Ending,
        lag::{Act, PAUSE_US, Rules},
    },
    Feed,
};
use crate::metrics::Resync;

impl Feed {
    /// Judges the live publisher's lag of the last `elapsed_us`.
    pub(super) fn judge_lag(&mut self, elapsed_us: i64, now_us: i64) {
        let rules = self.lag_rules(now_us);
        let is_pausing = (self.resynced_us).is_some_and(|at_us| now_us - at_us < PAUSE_US);
        let Some(index) = self.live.and_then(|live| self.index(live)) else {
            return;
        };
        let live = &mut self.publishers[index];
        match live.judge_lag(elapsed_us, rules).filter(|_| !is_pausing) {
            Some(Act::Reconnect) => self.close_live(index, Resync::Reconnect, now_us),
            Some(Act::Accept(lag_us)) => {
                live.accept(lag_us);
                self.resynced_us = Some(now_us);
                self.metrics.resync(Resync::Accept);
                info!(
                    studio = self.studio,
                    line = self.line_names(),
                    lag_ms = lag_us / 1000,
                    "an encoder's lag was accepted: it is shown that much later"
                );
            }
            None => {}
        }
    }

    /// The operator wants the encoder that has the line to start anew. `false`: nobody has it.
    pub(in crate::registry) fn resync(&mut self, now_us: i64) -> bool {
        let Some(index) = self.live.and_then(|live| self.index(live)) else {
            return false;
        };
        self.close_live(index, Resync::Operator, now_us);
        true
    }

    fn close_live(&mut self, index: usize, why: Resync, now_us: i64) {
        let gone = self.publishers.remove(index);
        let ending = if why == Resync::Operator {
            Ending::Restarted
        } else {
            Ending::Behind
        };
        info!(
            studio = self.studio,
            line = self.line_names(),
            peer = %gone.peer,
            lag_ms = gone.lag_ms(now_us),
            why = ending.reason(),
            "an encoder is made to start again"
        );
        self.resynced_us = Some(now_us);
        self.metrics.resync(why);
        gone.order(ending);
        self.left(&gone, ending.reason(), true, now_us);
        self.tell();
    }

    /// Where several connectors differ: the least lag counts, and one that wants to see its encoder live is enough.
    fn lag_rules(&mut self, now_us: i64) -> Rules {
        let ms = |ms: Option<u32>| i64::from(ms.unwrap_or(0)) * 1000;
        let lines = || self.lines.iter();
        Rules {
            policy: if lines().all(|line| line.lag == LagPolicy::Accept) {
                LagPolicy::Accept
            } else {
                LagPolicy::Reconnect
            },
            max_lag_us: ms(lines().map(|line| line.max_lag_ms).min()),
            delay_us: ms(lines().map(|line| line.delay_ms).max()),
            is_on_program: self.arbiter.is_on_program(now_us),
        }
    }
}
