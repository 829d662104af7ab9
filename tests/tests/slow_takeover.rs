//! What only a long fight shows: that it stays one question.

use std::time::Duration;

use firstmile_tests::fight;

#[test]
fn two_healthy_encoders_on_one_key_are_one_question_for_a_minute() -> anyhow::Result<()> {
    fight::two_healthy_encoders(Duration::from_mins(1))
}
