//! Who keeps a line when a second encoder comes with its key. Pure.
//!
//! Nobody is knocked off by accident: a healthy publisher stays, and the newcomer is *held*: connected, read,
//! thrown away, and promoted when its turn comes. But an encoder that lost its network and came back must not wait
//! for its own ghost.

use std::net::IpAddr;

use firstmile_shared::tunnel::control::Takeover;

/// Silence after which a publisher may be replaced, microseconds. Encoders send sound every 20 ms and pictures
/// every 40 ms: a second without either is no jitter, and is what a viewer calls frozen.
pub const SILENT_US: i64 = 1_000_000;

/// Who publishes, as far as the decision needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimant<'a> {
    /// The encoder's address.
    pub ip: IpAddr,
    /// The encoder's own name.
    pub encoder: &'a str,
}

/// What becomes of a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The line is free: it is shown.
    Live,
    /// It is shown in place of the other, who is told to go.
    Replace,
    /// It waits.
    Hold,
}

/// Decides on a newcomer; the incumbent comes with the time since its last media, microseconds.
pub fn decide(
    policy: Takeover,
    incumbent: Option<(Claimant<'_>, i64)>,
    newcomer: Claimant<'_>,
) -> Decision {
    let Some((incumbent, silent_us)) = incumbent else {
        return Decision::Live;
    };
    match policy {
        Takeover::Always => Decision::Replace,
        Takeover::Smart if silent_us >= SILENT_US || incumbent == newcomer => Decision::Replace,
        Takeover::Smart | Takeover::Never => Decision::Hold,
    }
}

/// Whether one that is held takes the line now, though the incumbent has not ended.
pub fn may_promote(policy: Takeover, incumbent_silent_us: i64) -> bool {
    policy == Takeover::Smart && incumbent_silent_us >= SILENT_US
}

/// The policy of a key that several connectors declared: the one that protects the incumbent most.
pub fn strictest(policies: impl IntoIterator<Item = Takeover>) -> Takeover {
    let caution = |policy: &Takeover| match policy {
        Takeover::Always => 0,
        Takeover::Smart => 1,
        Takeover::Never => 2,
    };
    policies.into_iter().max_by_key(caution).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use Decision::{Hold, Live, Replace};
    use Takeover::{Always, Never, Smart};

    use super::*;

    #[test]
    fn nobody_is_knocked_off_by_accident() {
        let phone = Claimant {
            ip: Ipv4Addr::new(203, 0, 113, 7).into(),
            encoder: "Larix iOS/1.4",
        };
        let elsewhere = Claimant {
            ip: Ipv4Addr::new(198, 51, 100, 1).into(),
            ..phone
        };
        let laptop = Claimant {
            encoder: "OBS 32",
            ..phone
        };
        // (policy, incumbent's silence in ms, newcomer, decision)
        for (policy, silent_ms, newcomer, decision) in [
            (Smart, None, phone, Live),
            (Never, None, phone, Live),
            (Smart, Some(20), elsewhere, Hold), // Two crews, one key: the healthy one stays.
            (Smart, Some(999), elsewhere, Hold), // A hiccup is not an end.
            (Smart, Some(1000), elsewhere, Replace), // The phone changed networks.
            (Smart, Some(20), phone, Replace),  // Its own older connection.
            (Smart, Some(20), laptop, Hold),    // The same house, another machine.
            (Always, Some(0), elsewhere, Replace),
            (Never, Some(60_000), phone, Hold),
        ] {
            let incumbent = silent_ms.map(|ms| (phone, ms * 1000));
            assert_eq!(
                decide(policy, incumbent, newcomer),
                decision,
                "{policy:?}, silent for {silent_ms:?} ms, {newcomer:?}"
            );
        }
    }

    #[test]
    fn one_that_is_held_takes_over_from_a_silent_one_only_where_that_is_wanted() {
        for (policy, silent_us, promoted) in [
            (Smart, SILENT_US - 1, false),
            (Smart, SILENT_US, true),
            (Never, i64::MAX, false),
            (Always, i64::MAX, false), // Nobody is held there.
        ] {
            assert_eq!(may_promote(policy, silent_us), promoted, "{policy:?}");
        }
    }

    #[test]
    fn connectors_that_disagree_get_the_careful_policy() {
        for (policies, expected) in [
            (vec![], Smart),
            (vec![Always], Always),
            (vec![Always, Smart], Smart),
            (vec![Smart, Never, Always], Never),
        ] {
            assert_eq!(strictest(policies.clone()), expected, "{policies:?}");
        }
    }
}
