//! Encoders behind links that carry too little: real ones, a real relay, a real NDI source.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::{
    fight::{events, note, see},
    harness::{
        Connector, Encoder, EncoderSettings, LineAddress, Need, OutputKind, PATIENCE, Program,
        Show, can_run, http_get, wait_for,
    },
    link::Link,
    metrics,
    viewer::Viewer,
};

/// A show with one line, and an encoder that publishes to it through a link.
#[derive(Debug)]
pub struct Field {
    /// Publishes.
    pub encoder: Encoder,
    /// Watches.
    pub viewer: Viewer,
    /// The uplink.
    pub link: Link,
    /// Where the encoder publishes.
    pub line: LineAddress,
    /// The connector.
    pub studio: Connector,
    /// The relay.
    pub show: Show,
    /// Bits a second that the encoder sends.
    pub stream_bps: u64,
    source: u8,
}

/// The line.
pub const NAME: &str = "Camera 1";

/// The studio delay, milliseconds.
pub const DELAY_MS: u64 = 600;

/// From the camera to the screen there is more than the delay: coding, the first keyframe's way, decoding, NDI.
const PIPELINE_MS: f64 = 450.0;

impl Field {
    /// Waits until its pictures are seen and the rate of its stream is known; `None` where it can't run. `settings` are for
    /// `line set`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(settings: &[&str]) -> anyhow::Result<Option<Self>> {
        if !can_run(&[Need::Ndi, Need::Ffmpeg]) {
            return Ok(None);
        }
        let show = Show::start()?;
        let studio = show.joined("truck1", OutputKind::Ndi)?;
        let line = show.add_line("truck1", &studio, NAME, None)?;
        let delay = format!("delay={DELAY_MS}");
        let set = [&["line", "set", NAME, &delay], settings].concat();
        studio.program().command(&set, "")?.success()?;
        let uplink = Link::to(show.relay().address("rtmp")?)?;
        let viewer = Viewer::find(NAME, Instant::now() + PATIENCE)?;
        let encoder = encoder(&show, &uplink, &line, 1)?;
        let mut field = Self {
            encoder,
            viewer,
            link: uplink,
            line,
            studio,
            show,
            stream_bps: 0,
            source: 1,
        };
        see(&field.viewer, 1, 50)?;
        let (before, measured) = (field.link.carried(), Duration::from_secs(3));
        thread::sleep(measured);
        field.stream_bps = (field.link.carried() - before) * 8 / measured.as_secs();
        ensure!(field.stream_bps > 500_000, "{} bit/s", field.stream_bps);
        Ok(Some(field))
    }

    /// The link carries so many percent of the stream from now on.
    pub fn carry_percent(&self, percent: u64) {
        self.link.set_rate(self.stream_bps * percent / 100);
    }

    /// The encoder's lag as the relay's API has it; `None` while there is none.
    ///
    /// # Errors
    /// When the relay does not answer.
    pub fn lag_ms(&self) -> anyhow::Result<Option<u64>> {
        let publishers = publishers(self.show.relay())?;
        let live = publishers.iter().find(|one| one["state"] == "live");
        Ok(live.and_then(|live| live["encoder_lag_ms"].as_u64()))
    }

    /// How often the relay did this about encoders that were behind.
    ///
    /// # Errors
    /// When its metrics can't be read, or have no such action.
    pub fn resyncs(&self, action: &str) -> anyhow::Result<f64> {
        let answer = http_get(self.show.relay().address("http")?, "/metrics")?;
        let (_, text) = answer.split_once("\r\n\r\n").context("an answer")?;
        let scrape = metrics::read(text)?;
        let family = scrape.get("firstmile_relay_resyncs_total");
        let mut samples = family.iter().flat_map(|family| &family.samples);
        let found = samples.find(|(labels, _)| labels.get("action").is_some_and(|a| a == action));
        found.map(|(_, count)| *count).context("no such action")
    }

    /// Starts the encoder again if it has ended; `true` when it had.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn dial_again(&mut self) -> anyhow::Result<bool> {
        if self.encoder.runs()? {
            return Ok(false);
        }
        self.source += 1;
        self.encoder = encoder(&self.show, &self.link, &self.line, self.source)?;
        Ok(true)
    }

    /// Nothing that was older than the delay was ever shown.
    ///
    /// # Errors
    /// When something was.
    pub fn nothing_late_was_shown(&self) -> anyhow::Result<f64> {
        let report = self.viewer.report();
        let delays = report.sources.values().filter_map(|seen| seen.delay_ms);
        let worst_ms = delays.map(|delay| delay.max).fold(0.0, f64::max);
        #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
        let limit_ms = DELAY_MS as f64 + PIPELINE_MS;
        ensure!(worst_ms <= limit_ms, "{worst_ms:.0} ms: {report:#?}");
        ensure!(report.drops == 0, "the source was gone: {report:#?}");
        Ok(worst_ms)
    }
}

/// The relay's API.
///
/// # Errors
/// When it does not answer.
pub fn publishers(relay: &Program) -> anyhow::Result<Vec<Value>> {
    let answer = http_get(relay.address("http")?, "/api/v1/publishers")?;
    let (_, body) = answer.split_once("\r\n\r\n").context("an answer")?;
    Ok(serde_json::from_str(body)?)
}

fn encoder(show: &Show, uplink: &Link, line: &LineAddress, source: u8) -> anyhow::Result<Encoder> {
    let settings = EncoderSettings {
        size: (640, 360),
        fps: 25,
        gop: 25,
        source,
        constant_bps: Some(1_000_000),
        holds_back: true,
        ..EncoderSettings::default()
    };
    let url = format!("rtmp://{}/truck1/{}", uplink.address(), line.key);
    Encoder::start(show.folder(), &format!("camera-{source}"), &url, &settings)
}

/// The link stands still and then carries more than the stream: the lag is seen at once, nothing late is shown while it
/// shrinks, and the picture is back at the first keyframe that is young enough.
///
/// # Errors
/// When anything is not so.
pub fn stalls_and_catches_up(stall: Duration, percent: u64) -> anyhow::Result<Option<Field>> {
    let Some(field) = Field::start(&[])? else {
        return Ok(None);
    };
    field.link.set_rate(0);
    let stalled = Instant::now();
    let is_seen = |lag_ms: Option<u64>| lag_ms.is_some_and(|ms| ms > DELAY_MS);
    wait_for("the relay to see the lag", PATIENCE, || {
        let lag_ms = field.lag_ms()?;
        Ok(if is_seen(lag_ms) {
            Ok(())
        } else {
            Err(lag_ms.into())
        })
    })?;
    let by_relay = stalled.elapsed();
    wait_for("the studio to see the lag", PATIENCE, || {
        let line = field.studio.line(NAME)?;
        Ok(if is_seen(line["encoder_lag_ms"].as_u64()) {
            Ok(())
        } else {
            Err(line)
        })
    })?;
    let by_studio = stalled.elapsed();
    ensure!(
        by_studio <= Duration::from_secs(2),
        "{by_relay:?}, {by_studio:?}"
    );
    thread::sleep(stall.saturating_sub(stalled.elapsed()));

    field.carry_percent(percent);
    let resumed = Instant::now();
    let mut worst_ms = 0;
    let patience = stall * 100 / u32::try_from(percent - 100)? + PATIENCE;
    wait_for("the encoder to catch up", patience, || {
        let lag_ms = field.lag_ms()?.context("the encoder is gone")?;
        worst_ms = worst_ms.max(lag_ms);
        Ok(if lag_ms <= DELAY_MS {
            Ok(())
        } else {
            Err(lag_ms.into())
        })
    })?;
    let (caught_up, took) = (Instant::now(), resumed.elapsed());
    let before = field.viewer.report().sources[&1].last;
    field
        .viewer
        .wait_for("a picture after it", caught_up + PATIENCE, |seen| {
            seen.sources[&1].last > before
        })?;
    let shown = caught_up.elapsed();
    ensure!(
        shown <= Duration::from_secs(2),
        "shown {shown:?} after it caught up"
    );
    see(
        &field.viewer,
        1,
        field.viewer.report().sources[&1].pictures + 25,
    )?;
    let latest_ms = field.nothing_late_was_shown()?;
    note(&format!(
        "stalled for {stall:?}, then {percent} %: lag seen after {} ms by the relay, {} ms by the studio; {worst_ms} ms \
         behind at the worst; caught up after {:.1} s; shown {} ms after that; the latest picture was {latest_ms:.0} ms old",
        by_relay.as_millis(),
        by_studio.as_millis(),
        took.as_secs_f64(),
        shown.as_millis(),
    ));
    Ok(Some(field))
}

/// The link carries too little for `length`: the encoder is made to start again whenever it is too far behind, and dials
/// each time.
///
/// # Errors
/// When anything is not so.
pub fn too_slow(percent: u64, max_lag: Duration, length: Duration) -> anyhow::Result<()> {
    let setting = format!("max_lag={}", max_lag.as_millis());
    let Some(mut field) = Field::start(&["lag=reconnect", &setting])? else {
        return Ok(());
    };
    field.carry_percent(percent);
    let started = Instant::now();
    let (mut worst_ms, mut dials) = (0, 0);
    while started.elapsed() < length || (dials == 0 && started.elapsed() < length + PATIENCE) {
        worst_ms = worst_ms.max(field.lag_ms()?.unwrap_or(0));
        dials += u32::from(field.dial_again()?);
        thread::sleep(Duration::from_millis(100));
    }
    field.link.open();
    ensure!(field.resyncs("reconnect")? > 0.0, "it is not counted");
    ensure!(
        dials > 0,
        "it was never made to start again; {worst_ms} ms behind"
    );
    let limit = max_lag + Duration::from_secs(5);
    ensure!(
        Duration::from_millis(worst_ms) <= limit,
        "{worst_ms} ms behind"
    );
    see(&field.viewer, field.source, 25)?;
    let latest_ms = field.nothing_late_was_shown()?;
    let told = events(&field.studio)?;
    let ended = |event: &&Value| {
        let text = event["text"].as_str().unwrap_or_default();
        event["kind"] == "feed_ended" && text.contains("too far behind")
    };
    ensure!(told.iter().any(|event| ended(&event)), "{told:#?}");
    note(&format!(
        "{percent} % for {length:?}, max_lag {max_lag:?}: {worst_ms} ms behind at the worst, started again {dials} times, \
         the latest picture was {latest_ms:.0} ms old"
    ));
    Ok(())
}
