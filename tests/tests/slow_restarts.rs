//! Kills by the dozen; see `restarts.rs`.

use firstmile_tests::kills::{Kills, seed};

#[test]
fn two_hundred_kills_at_random_moments_lose_nothing_that_was_acknowledged() -> anyhow::Result<()> {
    let tally = Kills::start(seed())?.run(200)?;
    assert!(
        tally.acknowledged > 100 && tally.unheard > 0 && tally.undone > 0,
        "kills hit before, within and after changes: {tally:?}"
    );
    Ok(())
}
