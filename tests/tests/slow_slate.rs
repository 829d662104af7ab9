//! What a switcher sees while everything goes wrong on air, for longer than any limit that must not count there.

use std::time::Duration;

use firstmile_tests::slate::on_program_nothing_but_the_last_picture;

#[test]
fn on_program_nothing_but_the_last_picture_is_seen_for_as_long_as_it_takes() -> anyhow::Result<()> {
    on_program_nothing_but_the_last_picture(Duration::from_secs(13), "hold=2s")
}
