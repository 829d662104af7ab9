//! A studio PC without the NDI runtime: the connector runs, says so, and everything but the NDI source works.

use firstmile_tests::harness::{
    Encoder, EncoderSettings, Need, OutputKind, PATIENCE, Show, can_run, wait_for,
};

#[test]
fn a_connector_without_the_ndi_runtime_starts_and_says_where_to_get_it() -> anyhow::Result<()> {
    if !can_run(&[Need::NoInstalledNdi]) {
        return Ok(());
    }
    let show = Show::start()?;
    let studio = show.joined("truck1", OutputKind::NdiWithoutRuntime)?;
    let line = show.add_line("truck1", &studio, "Camera 1", None)?;

    let log = studio.program().log()?;
    for word in ["NDI", "/nonexistent", "https://ndi.video"] {
        assert!(log.contains(word), "{word:?} is missing in:\n{log}");
    }
    if !can_run(&[Need::Ffmpeg]) {
        return Ok(());
    }
    let _encoder = Encoder::start(
        show.folder(),
        "camera",
        &line.url,
        &EncoderSettings {
            size: (640, 360),
            ..EncoderSettings::default()
        },
    )?;
    wait_for("pictures to be counted", PATIENCE, || {
        let line = studio.line("Camera 1")?;
        let units = line["video"]["units_total"].as_u64().unwrap_or(0);
        Ok(if units > 60 && line["state"] == "live" {
            Ok(())
        } else {
            Err(line)
        })
    })
}
