//! An encoder that falls behind: seen at once, shown only when it is live again. `slow_lag.rs` does it at length.

use std::time::Duration;

use firstmile_tests::{
    fight::see,
    harness::{PATIENCE, wait_for},
    lagging::{NAME, stalls_and_catches_up, too_slow},
};

#[test]
fn an_encoder_that_catches_up_is_shown_again_as_soon_as_it_is_live() -> anyhow::Result<()> {
    let Some(mut field) = stalls_and_catches_up(Duration::from_secs(3), 250)? else {
        return Ok(());
    };
    // By hand: it starts again at live.
    let said = field.studio.program();
    let said = said.command(&["line", "resync", NAME], "")?;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stderr.contains("starts again"), "{said:?}");
    wait_for("the encoder to dial again", PATIENCE, || {
        Ok(if field.dial_again()? {
            Ok(())
        } else {
            Err("it runs".into())
        })
    })?;
    see(&field.viewer, 2, 25)?;
    Ok(())
}

#[test]
fn an_encoder_that_does_not_catch_up_is_made_to_start_again() -> anyhow::Result<()> {
    too_slow(50, Duration::from_millis(500), Duration::from_secs(9))
}
