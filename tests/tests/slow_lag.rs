//! Encoders behind links that carry too little, for as long as a person would watch them.

use std::{thread, time::Duration};

use firstmile_tests::{
    fight::{events, see},
    harness::{PATIENCE, wait_for},
    lagging::{Field, NAME, stalls_and_catches_up, too_slow},
};

/// It is 10 s behind and gets nearer by a fifth of a second each second.
#[test]
fn after_ten_seconds_of_stall_it_is_shown_again_as_soon_as_it_is_live() -> anyhow::Result<()> {
    stalls_and_catches_up(Duration::from_secs(10), 120).map(drop)
}

#[test]
fn at_four_fifths_of_its_rate_nothing_late_is_ever_shown() -> anyhow::Result<()> {
    too_slow(80, Duration::from_secs(3), Duration::from_mins(2))
}

/// With `lag = accept` an encoder that stays behind is shown later, in one step, and the studio is told.
#[test]
fn a_lag_that_is_accepted_is_said() -> anyhow::Result<()> {
    let Some(mut field) = Field::start(&["lag=accept"])? else {
        return Ok(());
    };
    field.link.set_rate(0);
    thread::sleep(Duration::from_secs(5));
    field.carry_percent(100);
    let line = wait_for("the lag to be accepted", PATIENCE, || {
        let line = field.studio.line(NAME)?;
        let accepted_ms = line["accepted_lag_ms"].as_u64().unwrap_or(0);
        Ok(if accepted_ms >= 4_000 {
            Ok(line)
        } else {
            Err(line)
        })
    })?;
    let before = field.viewer.report().sources[&1].pictures;
    see(&field.viewer, 1, before + 50)?;
    let remark = field.studio.line(NAME)?["reason"].clone();
    assert!(
        remark
            .as_str()
            .is_some_and(|text| text.contains("later than the delay says")),
        "{remark}; {line:#}"
    );
    let told = events(&field.studio)?;
    let accepted = told
        .iter()
        .filter(|event| event["kind"] == "lag_accepted")
        .count();
    assert_eq!(accepted, 1, "{told:#?}");
    assert!(field.resyncs("accept")? > 0.0, "it is not counted");
    assert!(!field.dial_again()?, "its connection was closed");
    Ok(())
}
