//! How often an address may begin to publish on one line. Pure: times are arguments, microseconds.
//!
//! Whoever knows a key can connect, publish and leave a thousand times a second. Each time is a feed that starts and
//! ends: in the log, in the studio's events, and on the way to its connectors, where it goes before all pictures.

use std::net::IpAddr;

use crate::address::network_of;

/// Who began of late.
#[derive(Debug, Default)]
pub(super) struct Starts {
    addresses: Vec<Recent>,
}

#[derive(Debug)]
struct Recent {
    /// Of an IPv6 address its /64. `None`: all those for whom there is no entry.
    address: Option<IpAddr>,
    /// When what it began is forgotten.
    until_us: i64,
}

impl Starts {
    /// Notes that one wants to begin. `false`: it did so too often.
    pub(super) fn begins(&mut self, address: IpAddr, now_us: i64) -> bool {
        self.forget(now_us);
        let mut address = Some(network_of(address));
        let known = |address| move |recent: &Recent| recent.address == address;
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.iter().any(known(address)) {
            address = None;
        }
        let at = self.addresses.iter().position(known(address));
        let index = at.unwrap_or(self.addresses.len());
        if at.is_none() {
            self.addresses.push(Recent {
                address,
                until_us: now_us,
            });
        }
        let recent = &mut self.addresses[index];
        let until_us = recent.until_us.saturating_add(START_US);
        let is_allowed = until_us.saturating_sub(now_us) <= START_US * STARTS_AT_ONCE;
        if is_allowed {
            recent.until_us = until_us;
        }
        is_allowed
    }

    pub(super) fn forget(&mut self, now_us: i64) {
        self.addresses.retain(|recent| recent.until_us > now_us);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }
}

/// As often as that for ever: an encoder that has lost its network tries again after two seconds or more.
const START_US: i64 = 1_000_000;

/// And so many times on top: a person who tries one setting after the other, a crew's encoders behind one address.
const STARTS_AT_ONCE: i64 = 10;

/// Of one line: crews, relays of relays, a phone that changes its network.
const ADDRESSES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const S: i64 = 1_000_000;

    fn address(last: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0xc000_0200 + last))
    }

    #[test]
    fn one_that_does_nothing_but_begin_does_so_once_a_second() {
        let mut starts = Starts::default();
        let allowed = (0..1_000_000).step_by(1_000);
        let allowed = allowed.filter(|us| starts.begins(address(1), *us)).count();
        assert_eq!(allowed, 10, "in the first second");
        let allowed = (S..61 * S).step_by(1_000);
        let allowed = allowed.filter(|us| starts.begins(address(1), *us)).count();
        assert_eq!(allowed, 60, "in the next minute");
        assert!(starts.begins(address(2), 61 * S), "another one may");
    }

    #[test]
    fn an_encoder_that_comes_back_every_two_seconds_always_may() {
        let mut starts = Starts::default();
        assert!((0..10_000).all(|n| starts.begins(address(1), n * 2 * S)));
    }

    #[test]
    fn a_thousand_addresses_take_no_more_memory_and_hardly_more_starts_than_a_few() {
        let mut starts = Starts::default();
        let allowed = (0..100_000).filter(|n| starts.begins(address(n % 1_000), 0));
        assert_eq!(allowed.count(), 17 * 10);
        assert_eq!(starts.addresses.len(), ADDRESSES_MAX + 1);
        starts.forget(11 * S);
        assert!(starts.is_empty());
    }
}
