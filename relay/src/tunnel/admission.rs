//! Which of the strangers at the door may come in: bounds what handshakes can cost. Pure.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
};

/// Strangers at once: from the first packet until the relay knows the connector.
pub(super) const PENDING_MAX: usize = 256;

/// Strangers after which a new one must show that it can receive at its address, before it costs anything.
pub(super) const PENDING_BEFORE_RETRY: usize = 32;

/// Strangers of one address at once.
pub(super) const PENDING_PER_ADDRESS: usize = 8;

/// What to do with a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Go on with the handshake. [`Admission::leave`] follows when it is over.
    Admit,
    /// Ask for a proof of the address (QUIC's Retry), which costs nothing to wait for.
    Retry,
    /// No room.
    Refuse,
}

/// Who is at the door.
#[derive(Debug, Default)]
pub(super) struct Admission {
    pending: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Admission {
    /// Judges a newcomer. `is_validated`: it has proved to receive at this address.
    pub(super) fn enter(&mut self, address: IpAddr, is_validated: bool) -> Decision {
        let network = network(address);
        let of_address = self.by_address.get(&network).copied().unwrap_or(0);
        let is_crowded = of_address >= PENDING_PER_ADDRESS || self.pending >= PENDING_BEFORE_RETRY;
        if is_crowded && !is_validated {
            // Whoever borrows a studio's address must not fill that studio's places.
            return Decision::Retry;
        }
        if of_address >= PENDING_PER_ADDRESS || self.pending >= PENDING_MAX {
            return Decision::Refuse;
        }
        self.pending += 1;
        *self.by_address.entry(network).or_default() += 1;
        Decision::Admit
    }

    /// An admitted one is known now, or gone.
    pub(super) fn leave(&mut self, address: IpAddr) {
        self.pending = self.pending.saturating_sub(1);
        if let Some(count) = self.by_address.get_mut(&network(address)) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&network(address));
            }
        }
    }
}

/// One customer: an IPv4 address, or the /64 that every IPv6 customer has at least.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: usize) -> IpAddr {
        IpAddr::from(std::net::Ipv4Addr::from(u32::try_from(n).unwrap()))
    }

    #[test]
    fn strangers_are_bounded_in_total_and_must_prove_their_address_in_a_crowd() {
        let mut admission = Admission::default();
        for n in 0..PENDING_BEFORE_RETRY {
            assert_eq!(admission.enter(address(n), false), Decision::Admit);
        }
        assert_eq!(admission.enter(address(1_000), false), Decision::Retry);
        for n in PENDING_BEFORE_RETRY..PENDING_MAX {
            assert_eq!(admission.enter(address(n), true), Decision::Admit);
        }
        assert_eq!(admission.enter(address(1_000), true), Decision::Refuse);
        admission.leave(address(0));
        assert_eq!(admission.enter(address(1_000), true), Decision::Admit);
    }

    #[test]
    fn one_address_does_not_take_all_places() {
        let mut admission = Admission::default();
        let neighbours: [IpAddr; 2] = [
            "2001:db8:0:1::1".parse().unwrap(),
            "2001:db8:0:1:ffff::2".parse().unwrap(),
        ];
        for n in 0..PENDING_PER_ADDRESS {
            assert_eq!(admission.enter(neighbours[n % 2], true), Decision::Admit);
        }
        assert_eq!(admission.enter(neighbours[0], false), Decision::Retry);
        assert_eq!(admission.enter(neighbours[0], true), Decision::Refuse);
        assert_eq!(
            admission.enter("2001:db8:0:2::1".parse().unwrap(), true),
            Decision::Admit
        );
        admission.leave(neighbours[1]);
        assert_eq!(admission.enter(neighbours[0], true), Decision::Admit);
    }

    #[test]
    fn nothing_is_kept_of_those_who_left() {
        let mut admission = Admission::default();
        for n in 0..10_000 {
            assert_eq!(admission.enter(address(n), false), Decision::Admit);
            admission.leave(address(n));
        }
        assert_eq!((admission.pending, admission.by_address.len()), (0, 0));
    }
}
