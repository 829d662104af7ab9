//! The spare laptop: a second machine of the studio, from one file.

use std::{fs, os::unix::fs::PermissionsExt};

use firstmile_tests::harness::{
    Encoder, EncoderSettings, Need, OutputKind, PATIENCE, Show, can_run, wait_for,
};
use serde_json::Value;

#[test]
fn an_exported_studio_runs_on_a_spare_beside_the_first() -> anyhow::Result<()> {
    if !can_run(&[Need::Ffmpeg]) {
        return Ok(());
    }
    let show = Show::start()?;
    let studio = show.joined("truck1", OutputKind::Null)?;
    let line = show.add_line("truck1", &studio, "Kran süd", None)?;
    (studio.program())
        .command(&["line", "set", "Kran süd", "delay=safe"], "")?
        .success()?;

    let file = show.folder().join("spare.json");
    let path = file.to_str().unwrap();
    (studio.program())
        .command(&["export", path], "")?
        .success()?;
    assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);

    let spare = show.connector("spare", OutputKind::Null)?;
    let joined = spare.program().command(&["join", "--from", path], "")?;
    assert!(joined.stderr.contains("Kran süd"), "{joined:?}");
    joined.success()?;
    spare.wait_connected()?;
    let lines = (spare.program())
        .command(&["line", "list", "--json"], "")?
        .success()?;
    let lines: Value = serde_json::from_str(&lines)?;
    assert_eq!(lines[0]["key"], line.key.as_str(), "one key for both");
    assert_eq!(lines[0]["delay_ms"], 1500);

    let settings = EncoderSettings {
        size: (640, 360),
        ..EncoderSettings::default()
    };
    let _encoder = Encoder::start(show.folder(), "camera", &line.url, &settings)?;
    studio.wait_line("Kran süd", "live")?;
    spare.wait_line("Kran süd", "live")?;

    // Again on the same machine: nothing is doubled. On a third one: the token is used up.
    (spare.program())
        .command(&["join", "--from", path], "")?
        .success()?;
    let third = show.connector("third", OutputKind::Null)?;
    let refused = third.program().command(&["join", "--from", path], "")?;
    assert_eq!(refused.code, Some(77), "{refused:?}");
    assert!(refused.stderr.contains("used up"), "{refused:?}");
    assert!(!refused.stderr.contains("fm1."), "{refused:?}");

    // Two machines with one identity would push each other out: these are two.
    wait_for("both connectors", PATIENCE, || {
        let connectors = (show.relay())
            .command(&["connectors", "--json"], "")?
            .success()?;
        let connectors: Value = serde_json::from_str(&connectors)?;
        let count = connectors.as_array().map_or(0, Vec::len);
        Ok(if count == 2 { Ok(()) } else { Err(connectors) })
    })
}

#[test]
fn an_export_says_why_there_is_none() -> anyhow::Result<()> {
    let show = Show::start()?;
    let file = show.folder().join("spare.json");
    let path = file.to_str().unwrap();
    let studio = show.connector("studio", OutputKind::Null)?;
    let export = |what: &str, code: i32, word: &str| -> anyhow::Result<()> {
        let refused = studio.program().command(&["export", path], "")?;
        assert_eq!(refused.code, Some(code), "{what}: {refused:?}");
        assert!(refused.stderr.contains(word), "{what}: {refused:?}");
        Ok(())
    };
    export("not joined", 69, "no relay was joined")?;
    studio.join(&show.invite("truck1", &[])?)?.success()?;
    studio.wait_connected()?;
    fs::write(&file, "my notes")?;
    export("a file of somebody else's", 2, "is no export")?;
    assert_eq!(fs::read_to_string(&file)?, "my notes");
    fs::remove_file(&file)?;
    let mut show = show;
    show.relay_mut().kill()?;
    wait_for("the relay's end to be seen", PATIENCE, || {
        let status = studio.status()?;
        let state = status["relays"][0]["state"].clone();
        Ok(if state == "dialing" {
            Ok(())
        } else {
            Err(state)
        })
    })?;
    let refused = studio.program().command(&["export", path], "")?;
    assert_eq!(refused.code, Some(69), "{refused:?}");
    assert!(refused.stderr.contains("not connected"), "{refused:?}");
    assert!(!file.exists());
    Ok(())
}
