//! Against the real runtime. They announce sources, so they run in a network namespace that has nothing but `lo`,
//! and skip themselves, aloud, anywhere else; `FIRSTMILE_REQUIRE_NDI` makes that a failure.

use std::{fs, thread, time::Duration};

use super::*;
use crate::output::{BufferPool, FrameRate, Output, Picture, Sound};

/// The runtime, or why not.
fn runtime() -> Result<Ndi, String> {
    let interfaces = interfaces();
    if interfaces != ["lo"] {
        return Err(format!("the network is not private: {interfaces:?}"));
    }
    match env::var("DBUS_SYSTEM_BUS_ADDRESS") {
        Ok(bus) if bus.contains("nonexistent") => {}
        bus => return Err(format!("the system bus reaches outside: {bus:?}")),
    }
    Ndi::load().map_err(|error| error.to_string())
}

/// Those that can carry anything: with an IPv4 route or an IPv6 address.
fn interfaces() -> Vec<String> {
    let routes = fs::read_to_string("/proc/self/net/route").unwrap_or_default();
    let addresses = fs::read_to_string("/proc/self/net/if_inet6").unwrap_or_default();
    let by_route = routes
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next());
    let by_address = addresses
        .lines()
        .filter_map(|line| line.split_whitespace().last());
    let mut names: Vec<String> = by_route
        .chain(by_address)
        .chain(["lo"])
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn or_skip(runtime: Result<Ndi, String>) -> Option<Ndi> {
    match runtime {
        Ok(runtime) => Some(runtime),
        Err(reason) => {
            assert!(env::var_os("FIRSTMILE_REQUIRE_NDI").is_none(), "{reason}");
            eprintln!("SKIPPED: {reason}");
            None
        }
    }
}

#[test]
fn a_source_takes_any_format_and_a_used_name_gets_a_number() {
    let Some(ndi) = or_skip(runtime()) else {
        return;
    };
    assert!(ndi.version().contains("NDI"), "{}", ndi.version());
    let mut first = ndi.sender("Firstmile test (1)", None).unwrap();
    let second = ndi.sender("Firstmile test (1)", None).unwrap();
    assert!(
        first.name().ends_with("(Firstmile test (1))"),
        "{}",
        first.name()
    );
    assert!(
        second.name().ends_with("(Firstmile test (1) 2)"),
        "{}",
        second.name()
    );

    // The library reads a picture until the next one comes, also when its size changes.
    let pool = BufferPool::default();
    for round in 0..30_u32 {
        let (width, height) =
            [(1920, 1080), (1280, 720), (322, 181), (3840, 2160)][round as usize % 4];
        let picture = Arc::new(Picture {
            width,
            height,
            aspect: 16.0 / 9.0,
            pixels: pool.take(Picture::byte_len(width, height)),
        });
        first.show(
            &picture,
            FrameRate::new(30_000, 1_001),
            i64::from(round) * 333_667,
        );
        drop(picture);
        first.play(
            &Sound::silence(1 + round as usize % 6, 1_024),
            i64::from(round) * 333_667,
        );
        thread::sleep(Duration::from_millis(5));
    }
    first.play(&Sound::silence(2, 0), 0);
    thread::sleep(Duration::from_millis(500));
    let receivers = first.receivers().unwrap();
    assert_eq!(
        (receivers.connections, receivers.tally),
        (0, crate::playout::Tally::Off)
    );
    drop((first, second));
    let again = ndi.sender("Firstmile test (1)", None).unwrap();
    assert!(
        again.name().ends_with("(Firstmile test (1))"),
        "the name is free again: {}",
        again.name()
    );
}

#[test]
fn a_name_that_can_not_be_is_an_error() {
    let Some(ndi) = or_skip(runtime()) else {
        return;
    };
    assert!(matches!(ndi.sender("a\0b", None), Err(SenderError::Nul(_))));
    assert!(matches!(
        ndi.sender("a", Some("b\0")),
        Err(SenderError::Nul(_))
    ));
}
