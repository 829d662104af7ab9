//! Places for connections: so many in all, so many of one address, and who has to go when all are taken.
//!
//! A connection is a *stranger* until its key was accepted. When there is no place left, the oldest stranger is told
//! to go, provided that it had [`STRANGER_MIN`]: so a flood of strangers slows encoders down by that much at worst.
//! When only the share of one address is used up, its oldest stranger that has not shaken hands goes at once: an
//! encoder does that in its first moments, and one behind the same address is not to be kept out by silence. Whoever
//! waits for the answer to a wrong key goes before all others: the right key must find a place.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time};
use tokio_util::sync::CancellationToken;

use crate::address::network_of;

/// The places of one listener. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connections {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    max: usize,
    max_per_address: usize,
    table: Mutex<Table>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Table {
    taken: usize,
    by_address: HashMap<IpAddr, usize>,
    /// In the order in which they came.
    strangers: BTreeMap<u64, Stranger>,
    next: u64,
}

#[derive(Debug)]
struct Stranger {
    /// `None`: somebody whom a load balancer brings, and has not named yet.
    address: Option<IpAddr>,
    since: time::Instant,
    must_go: CancellationToken,
    stage: Stage,
}

/// How far a stranger has come; those further down go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It speaks the protocol.
    Spoken,
    /// Nothing yet.
    Silent,
    /// It has offered a wrong key.
    WrongKey,
}

impl Connections {
    /// `max` places, of which one address gets at most `max_per_address`.
    pub fn new(max: usize, max_per_address: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                max,
                max_per_address,
                table: Mutex::default(),
                left: Notify::new(),
            }),
        }
    }

    /// Waits until there is a place, and sends the oldest stranger away if that helps.
    pub async fn wait_for_place(&self) {
        loop {
            let left = self.shared.left.notified();
            let wait = {
                let table = self.shared.table();
                if table.taken < self.shared.max {
                    return;
                }
                table.send_oldest_away()
            };
            let _ = time::timeout(wait, left).await;
        }
    }

    /// Takes a place; `None` if the address has enough. Its own oldest stranger makes room, too.
    pub fn enter(&self, address: IpAddr) -> Option<Place> {
        let mut place = self.enter_unnamed();
        place.belongs_to(address).then_some(place)
    }

    /// Takes a place for somebody whose address is not known yet, since a load balancer brings him.
    pub fn enter_unnamed(&self) -> Place {
        let mut table = self.shared.table();
        table.taken += 1;
        let must_go = CancellationToken::new();
        let stranger = table.add_stranger(None, &must_go, Stage::Silent);
        Place {
            shared: self.shared.clone(),
            address: None,
            stranger: Some(stranger),
            must_go,
            stage: Stage::Silent,
        }
    }

    /// Places taken.
    pub fn taken(&self) -> usize {
        self.shared.table().taken
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn add_stranger(
        &mut self,
        address: Option<IpAddr>,
        must_go: &CancellationToken,
        stage: Stage,
    ) -> u64 {
        let number = self.next;
        self.next += 1;
        let stranger = Stranger {
            address,
            since: time::Instant::now(),
            must_go: must_go.clone(),
            stage,
        };
        self.strangers.insert(number, stranger);
        number
    }

    /// Whether a stranger of this address could be told to go. It counts until it is gone, each only once.
    fn make_room_at(&self, address: IpAddr) -> bool {
        let stay = || {
            (self.strangers.values()).filter(|stranger| {
                stranger.address == Some(address) && !stranger.must_go.is_cancelled()
            })
        };
        let of_stage = |stage| stay().find(|stranger| stranger.stage == stage);
        let oldest = (of_stage(Stage::WrongKey))
            .or_else(|| of_stage(Stage::Silent))
            .or_else(|| {
                stay()
                    .next()
                    .filter(|stranger| stranger.since.elapsed() >= STRANGER_MIN)
            });
        if let Some(stranger) = oldest {
            stranger.must_go.cancel();
        }
        oldest.is_some()
    }

    /// After which time it is worth looking again.
    fn send_oldest_away(&self) -> Duration {
        let stay = || {
            let strangers = self.strangers.values();
            strangers.filter(|stranger| !stranger.must_go.is_cancelled())
        };
        if let Some(wrong) = stay().find(|stranger| stranger.stage == Stage::WrongKey) {
            wrong.must_go.cancel();
            return LOOK_AGAIN_MIN;
        }
        let Some(oldest) = stay().next() else {
            return STRANGER_MIN;
        };
        let had = oldest.since.elapsed();
        if had >= STRANGER_MIN {
            oldest.must_go.cancel();
        }
        STRANGER_MIN.saturating_sub(had).max(LOOK_AGAIN_MIN)
    }
}

/// One connection's place; free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    shared: Arc<Shared>,
    address: Option<IpAddr>,
    /// Its number, as long as its key is not known.
    stranger: Option<u64>,
    must_go: CancellationToken,
    stage: Stage,
}

impl Place {
    /// Whose place it is. `false`: that address has enough, and none of its strangers can make room.
    #[must_use]
    pub fn belongs_to(&mut self, address: IpAddr) -> bool {
        let address = network_of(address);
        let mut table = self.shared.table();
        let of_address = table.by_address.get(&address).copied().unwrap_or(0);
        if of_address >= self.shared.max_per_address && !table.make_room_at(address) {
            return false;
        }
        *table.by_address.entry(address).or_default() += 1;
        self.address = Some(address);
        if let Some(stranger) = self.stranger.and_then(|n| table.strangers.get_mut(&n)) {
            stranger.address = Some(address);
        }
        true
    }

    /// It speaks the protocol.
    pub fn has_shaken_hands(&mut self) {
        if self.stage == Stage::Silent {
            self.set_stage(Stage::Spoken);
        }
    }

    /// It has offered a wrong key, and waits for the answer.
    pub fn has_wrong_key(&mut self) {
        self.set_stage(Stage::WrongKey);
    }

    fn set_stage(&mut self, stage: Stage) {
        self.stage = stage;
        if let Some(number) = self.stranger
            && let Some(stranger) = self.shared.table().strangers.get_mut(&number)
        {
            stranger.stage = stage;
        }
    }

    /// Its key was accepted: nobody takes the place away any more.
    pub fn is_known(&mut self) {
        if let Some(number) = self.stranger.take() {
            self.shared.table().strangers.remove(&number);
        }
    }

    /// It has published and does no more.
    pub fn is_stranger(&mut self) {
        if self.stranger.is_none() {
            let mut table = self.shared.table();
            let number = table.add_stranger(self.address, &self.must_go, Stage::Spoken);
            self.stranger = Some(number);
        }
    }

    /// Cancelled when a stranger has to make room.
    pub fn must_go(&self) -> CancellationToken {
        self.must_go.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.is_known();
        let mut table = self.shared.table();
        table.taken = table.taken.saturating_sub(1);
        if let Some(address) = self.address
            && let Some(of_address) = table.by_address.get_mut(&address)
        {
            *of_address -= 1;
            if *of_address == 0 {
                table.by_address.remove(&address);
            }
        }
        drop(table);
        self.shared.left.notify_one();
    }
}

/// What a stranger gets at least: several round trips of a mobile network.
const STRANGER_MIN: Duration = Duration::from_secs(2);

const LOOK_AGAIN_MIN: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    #[tokio::test(start_paused = true)]
    async fn one_address_can_not_take_all_places() {
        let connections = Connections::new(10, 2);
        let first = spoken(&connections);
        let _second = spoken(&connections);
        assert!(connections.enter(HERE).is_none());
        assert!(connections.enter(THERE).is_some());
        drop(first);
        assert!(connections.enter(HERE).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_behind_one_address_can_not_keep_its_encoder_out() {
        let connections = Connections::new(10, 2);
        let mut strangers: Vec<_> = (0..2).map(|_| spoken(&connections)).collect();
        assert!(connections.enter(HERE).is_none(), "they have their time");
        time::sleep(STRANGER_MIN).await;
        let newcomer = spoken(&connections);
        assert!(strangers[0].must_go().is_cancelled());
        assert!(!strangers[1].must_go().is_cancelled());
        strangers[1].is_known();
        assert!(connections.enter(HERE).is_none(), "one went, one came");
        drop((strangers, newcomer));
        assert_eq!(connections.taken(), 0);
    }

    /// Somebody here who speaks the protocol.
    fn spoken(connections: &Connections) -> Place {
        let mut place = connections.enter(HERE).unwrap();
        place.has_shaken_hands();
        place
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_silent_stranger_of_an_address_makes_room_at_once() {
        let connections = Connections::new(10, 3);
        let speaks = spoken(&connections);
        let silent = [connections.enter(HERE), connections.enter(HERE)].map(Option::unwrap);
        let newcomer = connections.enter(HERE).unwrap();
        assert!(silent[0].must_go().is_cancelled());
        assert!(!silent[1].must_go().is_cancelled());
        assert!(!speaks.must_go().is_cancelled() && !newcomer.must_go().is_cancelled());
    }

    /// Sixty-four guesses at once must not cost the person beside them the place.
    #[tokio::test(start_paused = true)]
    async fn who_waits_with_a_wrong_key_makes_room_before_anybody_else() {
        let connections = Connections::new(3, 3);
        let silent = connections.enter(HERE).unwrap();
        let speaks = spoken(&connections);
        let mut wrong = spoken(&connections);
        wrong.has_wrong_key();
        let newcomer = connections.enter(HERE).unwrap();
        assert!(wrong.must_go().is_cancelled());
        assert!(!silent.must_go().is_cancelled() && !speaks.must_go().is_cancelled());
        drop((wrong, newcomer));

        let mut wrong = connections.enter(THERE).unwrap();
        wrong.has_wrong_key();
        let leaves = async {
            wrong.must_go().cancelled().await;
            drop(wrong);
        };
        let started = time::Instant::now();
        tokio::join!(connections.wait_for_place(), leaves);
        assert!(started.elapsed() < Duration::from_millis(100), "at once");
        assert!(!silent.must_go().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn whom_a_load_balancer_brings_counts_for_his_own_address() {
        let connections = Connections::new(10, 1);
        let mut first = connections.enter_unnamed();
        let mut second = connections.enter_unnamed();
        assert_eq!(connections.taken(), 2);
        assert!(first.belongs_to(HERE));
        first.has_shaken_hands();
        assert!(!second.belongs_to(HERE), "that address has its share");
        drop(second);
        let mut third = connections.enter_unnamed();
        assert!(third.belongs_to(THERE));
        drop((first, third));
        assert_eq!(connections.taken(), 0);
        assert!(connections.shared.table().by_address.is_empty());
    }

    #[test]
    fn neighbours_in_one_ipv6_network_are_one_address() {
        let address = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(address("2001:db8::1"), address("2001:db8::2"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), HERE);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_stranger_makes_room_and_no_known_encoder_does() {
        let connections = Connections::new(3, 3);
        let mut known = connections.enter(HERE).unwrap();
        known.is_known();
        let oldest = connections.enter(HERE).unwrap();
        time::sleep(Duration::from_millis(100)).await;
        let younger = connections.enter(HERE).unwrap();

        let started = time::Instant::now();
        let leaves = async {
            oldest.must_go().cancelled().await;
            drop(oldest);
        };
        tokio::join!(connections.wait_for_place(), leaves);
        assert!(
            started.elapsed() >= Duration::from_millis(1_900),
            "it had its time"
        );
        assert!(!younger.must_go().is_cancelled());
        assert!(!known.must_go().is_cancelled());
        assert_eq!(connections.taken(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_publishing_is_a_stranger_again() {
        let connections = Connections::new(1, 1);
        let mut place = connections.enter(HERE).unwrap();
        place.is_known();
        let must_go = place.must_go();
        let wait = time::timeout(Duration::from_mins(1), connections.wait_for_place());
        assert!(
            wait.await.is_err() && !must_go.is_cancelled(),
            "nothing expires on air"
        );
        place.is_stranger();
        let leaves = async {
            must_go.cancelled().await;
            drop(place);
        };
        tokio::join!(connections.wait_for_place(), leaves);
    }
}
