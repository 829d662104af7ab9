use std::net::Ipv4Addr;

use Takeover::{Always, Never, Smart};
use Verdict::{Hold, Take, Wait};

use super::*;

const MS: i64 = 1_000;
const S: i64 = 1_000_000;

fn look(host: u8, agent: &str) -> Look {
    Look {
        address: Some(Ipv4Addr::new(203, 0, 113, host).into()),
        agent: agent.to_owned(),
    }
}

fn phone() -> Look {
    look(7, "Larix iOS/1.4")
}

/// Sends every 20 ms, without delay.
fn sending(look: &Look) -> Incumbent<'_> {
    silent(look, 20)
}

fn silent(look: &Look, ms: i64) -> Incumbent<'_> {
    Incumbent {
        look,
        silent_us: ms * MS,
        lag_us: 30 * MS,
    }
}

fn coming(look: &Look) -> Challenger<'_> {
    Challenger {
        look,
        waited_us: None,
        alone_us: 0,
    }
}

fn waiting(look: &Look, waited_ms: i64, alone_ms: i64) -> Challenger<'_> {
    Challenger {
        look,
        waited_us: Some(waited_ms * MS),
        alone_us: alone_ms * MS,
    }
}

#[test]
fn nobody_is_knocked_off_by_accident() {
    let (far, lap, same) = (look(99, "Larix iOS/1.4"), look(7, "OBS 32"), phone());
    // (what, policy, on program, the incumbent's silence and lag in ms, newcomer, verdict)
    for (what, policy, on_air, silent_ms, lag_ms, newcomer, verdict) in [
        ("two crews, one key", Smart, false, 20, 30, &far, Wait),
        ("a hiccup is not an end", Smart, false, 999, 30, &far, Wait),
        (
            "it changed networks",
            Smart,
            false,
            1000,
            30,
            &far,
            Take(Why::Silent),
        ),
        (
            "likewise on program",
            Smart,
            true,
            1000,
            30,
            &far,
            Take(Why::Silent),
        ),
        (
            "its older connection",
            Smart,
            false,
            250,
            30,
            &same,
            Take(Why::Returned),
        ),
        (
            "its old send buffer",
            Smart,
            false,
            20,
            1500,
            &same,
            Take(Why::Returned),
        ),
        ("two phones, one address", Smart, false, 20, 30, &same, Wait),
        (
            "on program it must be silent",
            Smart,
            true,
            999,
            1500,
            &same,
            Wait,
        ),
        ("another machine there", Smart, false, 400, 30, &lap, Wait),
        ("the newest", Always, false, 0, 30, &far, Take(Why::Newest)),
        (
            "always means it",
            Always,
            true,
            0,
            30,
            &far,
            Take(Why::Newest),
        ),
        ("never", Never, false, 60_000, 30, &same, Wait),
    ] {
        let mut arbiter = Arbiter::default();
        arbiter.set_program(on_air, 0);
        let incumbent = Incumbent {
            look: &phone(),
            silent_us: silent_ms * MS,
            lag_us: lag_ms * MS,
        };
        let got = arbiter.judge(policy, incumbent, coming(newcomer), 0);
        assert_eq!(got, verdict, "{what}");
    }
}

#[test]
fn one_that_is_held_takes_the_line_from_a_silent_one_only() {
    let (same, other) = (phone(), look(99, "OBS 32"));
    // (what, policy, incumbent's silence, challenger, how long it waited and was alone, verdict)
    for (what, policy, silent_ms, challenger, waited_ms, alone_ms, verdict) in [
        ("not yet", Smart, 900, &other, 500, 900, Wait),
        ("ask the operator", Smart, 20, &other, 1000, 0, Hold),
        (
            "silent for a second",
            Smart,
            1000,
            &other,
            3000,
            950,
            Take(Why::Silent),
        ),
        (
            "both were silent: the network's fault",
            Smart,
            2000,
            &other,
            3000,
            20,
            Hold,
        ),
        (
            "it proved to be another one",
            Smart,
            300,
            &same,
            1000,
            290,
            Hold,
        ),
        (
            "the ghost fell silent a moment later",
            Smart,
            260,
            &same,
            200,
            190,
            Take(Why::Returned),
        ),
        ("never", Never, 9000, &other, 9000, 9000, Hold),
        (
            "frozen out of always, not the newest any more",
            Always,
            20,
            &other,
            3000,
            0,
            Hold,
        ),
        (
            "always, silent",
            Always,
            1000,
            &other,
            3000,
            990,
            Take(Why::Silent),
        ),
    ] {
        let mut arbiter = Arbiter::default();
        let incumbent = phone();
        let challenger = waiting(challenger, waited_ms, alone_ms);
        let got = arbiter.judge(policy, silent(&incumbent, silent_ms), challenger, 0);
        assert_eq!(got, verdict, "{what}");
    }
}

#[test]
fn what_was_on_program_is_protected_for_ten_seconds_more() {
    let mut arbiter = Arbiter::default();
    let (incumbent, newcomer) = (phone(), phone());
    arbiter.set_program(true, 0);
    arbiter.set_program(false, 5 * S);
    for (at_us, verdict) in [(15 * S - 1, Wait), (15 * S, Take(Why::Returned))] {
        let got = arbiter.judge(Smart, silent(&incumbent, 300), coming(&newcomer), at_us);
        assert_eq!(got, verdict, "{at_us}");
    }
}

/// Two encoders that dial again whenever they are cut off, on a line where the newest wins.
#[test]
fn a_fight_is_stopped_after_two_changes_and_one_alarm() {
    let mut arbiter = Arbiter::default();
    let encoders = [phone(), look(99, "OBS 32")];
    let mut on = 0;
    let (mut changes, mut alarms) = (0, 0);
    for second in 1..60 {
        let (incumbent, challenger) = (&encoders[on], &encoders[1 - on]);
        let was_frozen = arbiter.is_frozen();
        let now_us = second * 3 * S;
        let verdict = arbiter.judge(Always, sending(incumbent), coming(challenger), now_us);
        if let Take(why) = verdict {
            arbiter.changed(incumbent.clone(), why, now_us);
            on = 1 - on;
            changes += 1;
        }
        alarms += u32::from(arbiter.is_frozen() && !was_frozen);
    }
    assert_eq!((changes, alarms, on), (CHANGES_MAX, 1, 0));

    arbiter.decided();
    let incumbent = &encoders[on];
    let verdict = arbiter.judge(Always, sending(incumbent), coming(&encoders[1]), 200 * S);
    assert_eq!(verdict, Take(Why::Newest), "the operator ended it");
}

/// Each falls silent for a second now and then, and each is back soon while the other sends.
#[test]
fn living_encoders_that_take_turns_in_their_hiccups_are_stopped_too() {
    let mut arbiter = Arbiter::default();
    let encoders = [phone(), look(99, "OBS 32")];
    let mut on = 0;
    let mut now_us = 0;
    for change in 0..4 {
        let (incumbent, challenger) = (&encoders[on], &encoders[1 - on]);
        now_us += 4 * S;
        let verdict = arbiter.judge(
            Smart,
            silent(incumbent, 1000),
            waiting(challenger, 3000, 950),
            now_us,
        );
        if change == 3 {
            assert_eq!((verdict, arbiter.is_frozen()), (Hold, true));
            break;
        }
        assert_eq!(verdict, Take(Why::Silent));
        arbiter.changed(incumbent.clone(), Why::Silent, now_us);
        on = 1 - on;
        now_us += S;
        let (incumbent, returned) = (&encoders[on], &encoders[1 - on]);
        arbiter.judge(Smart, sending(incumbent), coming(returned), now_us);
    }
}

/// In and out of coverage: every time it is the only one that lives.
#[test]
fn a_phone_that_keeps_losing_its_network_is_no_fight() {
    let mut arbiter = Arbiter::default();
    let (wifi, mobile) = (phone(), look(99, "Larix iOS/1.4"));
    for n in 0..10 {
        let (ghost, returned) = if n % 3 == 0 {
            (&wifi, &mobile)
        } else if n % 3 == 1 {
            (&mobile, &wifi)
        } else {
            (&wifi, &wifi)
        };
        let now_us = n * 2 * S;
        let verdict = arbiter.judge(Smart, silent(ghost, 1500), coming(returned), now_us);
        assert_eq!(verdict, Take(Why::Silent), "{n}");
        arbiter.changed(ghost.clone(), Why::Silent, now_us);
    }
    assert!(!arbiter.is_frozen());
}

#[test]
fn a_frozen_choice_is_free_again_when_its_rivals_have_been_away_or_it_left() {
    let frozen = || {
        let mut arbiter = Arbiter::default();
        for n in 0..=CHANGES_MAX {
            let (a, b) = (phone(), look(99, "OBS 32"));
            if let Take(why) = arbiter.judge(Always, sending(&a), coming(&b), 0) {
                arbiter.changed(a, why, i64::try_from(n).unwrap());
            }
        }
        assert!(arbiter.is_frozen());
        arbiter
    };
    let mut arbiter = frozen();
    arbiter.calm(10 * S);
    arbiter.calm(40 * S - 1);
    assert!(arbiter.is_frozen());
    arbiter.calm(40 * S);
    assert!(!arbiter.is_frozen());

    let mut arbiter = frozen();
    arbiter.calm(10 * S);
    arbiter.judge(
        Smart,
        sending(&phone()),
        waiting(&look(99, "OBS 32"), 0, 0),
        20 * S,
    );
    arbiter.calm(40 * S);
    assert!(arbiter.is_frozen(), "one was there meanwhile");
    arbiter.left();
    assert!(!arbiter.is_frozen());
}

#[test]
fn a_refused_encoder_that_keeps_trying_stays_refused_until_the_operator_relents() {
    let mut refusals = Refusals::default();
    refusals.add(phone(), 1, false, 0);
    for minute in 0..60 {
        assert!(refusals.knows(&phone(), minute * 60 * S));
    }
    assert!(!refusals.knows(&look(7, "OBS 32"), 0));
    assert!(!refusals.lift(|number| *number == 2));
    assert!(refusals.lift(|number| *number == 1));
    assert!(!refusals.knows(&phone(), 0));

    refusals.add(phone(), 1, false, 0);
    assert!(!refusals.knows(&phone(), REFUSED_FOR_US), "long ago");
    for n in 0..100 {
        refusals.add(look(n, "flood"), n, false, 0);
    }
    assert_eq!(refusals.iter().count(), REFUSALS_MAX);
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
