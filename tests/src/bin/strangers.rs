//! Strangers by the thousand, for `slow_strangers`: comes for as long as it is told, then prints what it did as JSON.
//!
//! `strangers RELAY:PORT SECONDS`

#![expect(clippy::print_stdout, reason = "that is what it is for")]

use anyhow::Context;
use firstmile_tests::hostile::crowd::Crowd;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let relay = arguments.next().context("RELAY:PORT")?.parse()?;
    let seconds = arguments.next().context("SECONDS")?.parse()?;
    let crowd = Crowd {
        slow: 1_000,
        garbage_per_second: 200,
        nested: 50,
        seconds,
    };
    let account = crowd.run(relay).await?;
    println!("{}", serde_json::to_string(&account)?);
    Ok(())
}
