//! Who gets what: studios that share a relay, connectors that nobody invited, tokens that should not work.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    time::Instant,
};

use firstmile_shared::{tls::Spki, token::JoinToken};
use firstmile_tests::{
    harness::{Encoder, EncoderSettings, Need, OutputKind, PATIENCE, Show, can_run, wait_for},
    viewer::Viewer,
};
use serde_json::Value;

/// Both studios chose the same key text. A stamp says whose camera a picture is from.
#[test]
fn two_studios_with_the_same_key_never_see_each_others_feed() -> anyhow::Result<()> {
    if !can_run(&[Need::Ndi, Need::Ffmpeg]) {
        return Ok(());
    }
    let show = Show::start()?;
    let north = show.joined("north", OutputKind::Ndi)?;
    let south = show.joined("south", OutputKind::Ndi)?;
    let key = Some("the-same-key-text-2026");
    let to_north = show.add_line("north", &north, "North camera", key)?;
    let to_south = show.add_line("south", &south, "South camera", key)?;
    assert_eq!(to_north.key, to_south.key);
    let at_north = Viewer::find("North camera", Instant::now() + PATIENCE)?;
    let at_south = Viewer::find("South camera", Instant::now() + PATIENCE)?;

    let quick = |source| EncoderSettings {
        size: (640, 360),
        source,
        ..EncoderSettings::default()
    };
    let _first = Encoder::start(show.folder(), "north", &to_north.url, &quick(1))?;
    at_north.wait_for("its own feed", Instant::now() + PATIENCE, |seen| {
        seen.sources
            .get(&1)
            .is_some_and(|source| source.pictures >= 60)
    })?;
    assert!(
        at_south.report().sources.is_empty(),
        "{:#?}",
        at_south.report()
    );
    assert_eq!(south.line("South camera")?["state"], "waiting");

    let _second = Encoder::start(show.folder(), "south", &to_south.url, &quick(2))?;
    at_south.wait_for("its own feed", Instant::now() + PATIENCE, |seen| {
        seen.sources
            .get(&2)
            .is_some_and(|source| source.pictures >= 60)
    })?;

    let sources_seen = |viewer: &Viewer| viewer.report().sources.into_keys().collect::<Vec<_>>();
    assert_eq!(
        (sources_seen(&at_north), sources_seen(&at_south)),
        (vec![1], vec![2])
    );
    Ok(())
}

/// It knows where the relay is and what its key is, from a stolen file; it has no identity that the relay knows.
#[test]
fn a_connector_that_nobody_invited_gets_nothing() -> anyhow::Result<()> {
    let show = Show::start()?;
    let studio = show.joined("truck1", OutputKind::Null)?;
    show.add_line("truck1", &studio, "Camera 1", None)?;

    let stolen = show.folder().join("thief");
    fs::DirBuilder::new().mode(0o700).create(&stolen)?;
    fs::copy(
        studio.program().state().join("relays.json"),
        stolen.join("relays.json"),
    )?;
    fs::set_permissions(
        stolen.join("relays.json"),
        fs::Permissions::from_mode(0o600),
    )?;
    let thief = show.connector("thief", OutputKind::Null)?;

    let relay = thief.wait_relay("refused")?;
    assert!(
        relay["reason"].is_string() || relay.get("reason").is_none(),
        "{relay}"
    );
    let connectors = show
        .relay()
        .command(&["connectors", "--json"], "")?
        .success()?;
    let connectors: Value = serde_json::from_str(&connectors)?;
    assert_eq!(
        connectors.as_array().map(Vec::len),
        Some(1),
        "only the invited one: {connectors}"
    );
    Ok(())
}

#[test]
fn a_token_works_once_and_again_only_for_the_same_connector() -> anyhow::Result<()> {
    let show = Show::start()?;
    let token = show.invite("truck1", &[])?;
    let first = show.connector("first", OutputKind::Null)?;
    first.join(&token)?.success()?;
    first.wait_connected()?;

    // An answer that was lost on the way must not lock the studio out.
    first.join(&token)?.success()?;

    let second = show.connector("second", OutputKind::Null)?;
    let refused = second.join(&token)?;
    assert_eq!(refused.code, Some(77), "{refused:?}");
    assert!(refused.stderr.contains("used"), "{refused:?}");
    Ok(())
}

#[test]
fn a_token_survives_what_messengers_do_to_it() -> anyhow::Result<()> {
    let show = Show::start()?;
    let token = show.invite("truck1", &[])?;
    let (head, tail) = token.split_at(40);
    let pasted = format!("  \u{201c}{head}\r\n {tail}\u{201d}\n\n");
    let studio = show.connector("studio", OutputKind::Null)?;
    studio.join(&pasted)?.success()?;
    studio.wait_connected()
}

#[test]
fn a_token_that_does_not_work_says_why_and_each_reason_has_its_exit_code() -> anyhow::Result<()> {
    let show = Show::start()?;
    let studio = show.connector("studio", OutputKind::Null)?;
    let good = show.invite("truck1", &[])?;

    let mut mangled = good.clone();
    mangled.replace_range(20..21, if &good[20..21] == "A" { "B" } else { "A" });
    let wrong_pin = {
        let mut token = JoinToken::parse(&good)?;
        token.pins = vec![Spki([7; 32])];
        token.encode()
    };
    let nobody_there = {
        let mut token = JoinToken::parse(&good)?;
        // The discard port: nothing listens on it here.
        token.addresses = vec!["127.0.0.1:9".into()];
        token.encode()
    };
    let expired = show.invite("truck1", &["--ttl", "1s"])?;
    wait_for("the token to expire", PATIENCE, || {
        let left = JoinToken::parse(&expired)?
            .expires_unix
            .checked_sub(firstmile_tests::source::wall_us() / 1_000_000);
        Ok(match left {
            None => Ok(()),
            Some(left) => Err(Value::from(left)),
        })
    })?;

    let mut sentences = Vec::new();
    for (what, token, code, word) in [
        ("mangled", mangled, 2, "token"),
        ("not a token at all", "hello".into(), 2, "token"),
        ("wrong pin", wrong_pin, 77, "key"),
        ("expired", expired, 77, "expired"),
        ("nobody there", nobody_there, 69, "127.0.0.1:9"),
    ] {
        let refused = studio.join(&token)?;
        assert_eq!(refused.code, Some(code), "{what}: {refused:?}");
        let sentence = refused.stderr.to_lowercase();
        assert!(sentence.contains(word), "{what}: {refused:?}");
        assert!(!sentence.contains("panicked"), "{what}: {refused:?}");
        assert!(
            !refused.stderr.contains(token.as_str()),
            "{what}: the token is a secret: {refused:?}"
        );
        sentences.push(sentence);
    }
    let different: std::collections::BTreeSet<_> = sentences[1..].iter().collect();
    assert_eq!(
        different.len(),
        sentences.len() - 1,
        "each its own: {sentences:#?}"
    );

    // After all that, a good one still works.
    studio.join(&good)?.success()?;
    studio.wait_connected()
}
