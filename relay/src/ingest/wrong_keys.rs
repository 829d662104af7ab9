//! How long a wrong key is answered after: longer for an address that sends many. Pure: times are arguments.
//!
//! It slows down only what is wrong: the right key is let in before anybody looks here, from whatever address. The
//! answer's delay depends on the address alone, so it does not tell a wrong key from an unknown studio.

use std::{collections::HashMap, net::IpAddr, time::Duration};

/// Wrong keys of late, by address.
#[derive(Debug)]
pub struct WrongKeys {
    delay: Duration,
    delay_max: Duration,
    addresses: HashMap<IpAddr, Recent>,
}

#[derive(Clone, Copy, Debug)]
struct Recent {
    count: u32,
    /// When the first of them came, microseconds.
    since_us: i64,
}

impl WrongKeys {
    /// Answers after `delay`, and after `delay_max` at most.
    pub fn new(delay: Duration, delay_max: Duration) -> Self {
        Self {
            delay,
            delay_max: delay_max.max(delay),
            addresses: HashMap::new(),
        }
    }

    /// Counts a wrong key of an address (IPv6: of a /64, as the caller has it); says after which time it is answered.
    pub fn came(&mut self, address: IpAddr, now_us: i64) -> Duration {
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(&address) {
            self.forget(now_us);
            if self.addresses.len() >= ADDRESSES_MAX {
                // So many at once: each of them is slow enough as it is.
                return self.delay;
            }
        }
        let recent = self.addresses.entry(address).or_insert(Recent {
            count: 0,
            since_us: now_us,
        });
        if now_us.saturating_sub(recent.since_us) >= WINDOW_US {
            *recent = Recent {
                count: 0,
                since_us: now_us,
            };
        }
        let steps = 1 + recent.count / STEP;
        recent.count = recent.count.saturating_add(1);
        self.delay.saturating_mul(steps).min(self.delay_max)
    }

    fn forget(&mut self, now_us: i64) {
        (self.addresses).retain(|_, recent| now_us.saturating_sub(recent.since_us) < WINDOW_US);
    }
}

/// Typing errors of one person, or of one encoder that tries again.
const STEP: u32 = 5;

/// A minute.
const WINDOW_US: i64 = 60_000_000;

/// Of some 64 bytes each.
const ADDRESSES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const SECOND_US: i64 = 1_000_000;

    fn table() -> WrongKeys {
        WrongKeys::new(Duration::from_secs(1), Duration::from_secs(3))
    }

    #[test]
    fn an_address_that_goes_on_is_answered_later_and_later_up_to_a_bound() {
        let mut wrong = table();
        let seconds: Vec<_> = (0..20)
            .map(|n| wrong.came(HERE, n * SECOND_US).as_secs())
            .collect();
        assert_eq!(
            seconds,
            [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3]
        );
        let there = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
        assert_eq!(
            wrong.came(there, 20 * SECOND_US).as_secs(),
            1,
            "its own count"
        );
    }

    #[test]
    fn after_a_minute_it_is_forgotten() {
        let mut wrong = table();
        for _ in 0..10 {
            wrong.came(HERE, 0);
        }
        assert_eq!(wrong.came(HERE, WINDOW_US - 1).as_secs(), 3);
        assert_eq!(wrong.came(HERE, WINDOW_US).as_secs(), 1);
    }

    #[test]
    fn a_million_addresses_take_no_more_memory_than_a_few_thousand() {
        let mut wrong = table();
        for n in 0..1_000_000_u32 {
            wrong.came(IpAddr::V4(n.into()), 0);
        }
        assert_eq!(wrong.addresses.len(), ADDRESSES_MAX);
        assert_eq!(wrong.came(HERE, WINDOW_US).as_secs(), 1);
        assert_eq!(wrong.addresses.len(), 1, "the old ones make room");
    }
}
