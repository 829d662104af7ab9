//! Runs a row once, for one system, in a laboratory of its own.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use firstmile_shared::clock::unix_now_us;

use super::{
    Lab, RELAY, RELAY_2, SERVER,
    feed::{Arrivals, Feed},
    link::Outage,
    namespace::Inside,
    row::{Action, DELAY_MS, Figures, Kind, Row, System, WARM_UP_S},
    score::{Take, ms},
    show::{LabShow, STUDIO, TAIL, arrivals, rtmp},
    srt::{self, Transmit},
    tcp,
};
use crate::encoder::SyntheticFeed;

/// What came of it.
///
/// # Errors
/// When a program does not start or the laboratory can't be set up.
pub fn run(row: &Row, system: System, seed: u64) -> anyhow::Result<Figures> {
    let mut lab = Lab::start(&row.encoder, &row.studio, seed)?;
    let figures = match (system, row.kind) {
        (System::Firstmile, Kind::Line) => firstmile(row, &mut lab)?,
        (System::Firstmile, Kind::UdpBlockedAtStart) => udp_blocked(row, &mut lab)?,
        (System::Firstmile, Kind::RelayDies) => relay_dies(row, &mut lab)?,
        (System::Firstmile, Kind::Neighbour) => neighbour(row, &lab, seed)?,
        (System::Firstmile, Kind::OnAir) => super::on_air::run(row, &lab)?,
        (System::TcpBbr, _) => tcp_bbr(row, &mut lab)?,
        (System::Srt, _) => srt(row, &mut lab)?,
    };
    Ok(figures)
}

/// A row's feed with its warm-up, a moment from now.
pub(super) fn warmed(units: SyntheticFeed) -> Feed {
    Feed::soon(SyntheticFeed {
        duration_ms: units.duration_ms + WARM_UP_MS,
        ..units
    })
}

fn firstmile(row: &Row, lab: &mut Lab) -> anyhow::Result<Figures> {
    let mut show = LabShow::start(lab, 1, DELAY_MS)?;
    let line = show.add_lines(1)?.remove(0);
    let feed = warmed(row.feed);
    let encoder = feed.publish(&lab.encoder.host, rtmp(RELAY), STUDIO, &line.key)?;
    let downloads = play(row, lab, feed)?;
    sleep_until(feed.end_us(), TAIL);
    let rows = show.units()?;
    drop(downloads);
    if !encoder.is_finished() {
        // One whose own link is bad may hang in its socket.
        drop(show);
    }
    let ended = encoder.finish()?;
    let arrived = arrivals(&rows, &line.name);
    if arrived.is_empty() {
        ended.context("nothing arrived")?;
    }
    Ok(figures(row, feed, &arrived, DELAY_US))
}

fn udp_blocked(row: &Row, lab: &mut Lab) -> anyhow::Result<Figures> {
    let mut show = LabShow::start(lab, 1, DELAY_MS)?;
    let line = show.add_lines(1)?.remove(0);
    show.connector.stop()?;
    lab.studio.uplinks[0].block_udp(true)?;
    let feed = warmed(SyntheticFeed {
        duration_ms: 12_000,
        ..row.feed
    });
    let encoder = feed.publish(&lab.encoder.host, rtmp(RELAY), STUDIO, &line.key)?;
    sleep_until(feed.moment_us(WARM_UP_S), Duration::ZERO);
    let started_us = unix_now_us();
    show.connector.restart()?;
    sleep_until(feed.end_us(), TAIL);
    let rows = show.units()?;
    drop(show);
    encoder.finish()??;
    let first_us = (rows.iter().filter(|row| row.is_video))
        .map(|row| row.arrived_us)
        .min();
    let waited = first_us.map(|first_us| ms(first_us - started_us));
    Ok(Figures::from([("first_picture_ms".to_owned(), waited)]))
}

fn relay_dies(row: &Row, lab: &mut Lab) -> anyhow::Result<Figures> {
    let mut show = LabShow::start(lab, 2, DELAY_MS)?;
    let line = show.add_lines(1)?.remove(0);
    let feed = warmed(row.feed);
    let encoders = [RELAY, RELAY_2]
        .map(|relay| feed.publish(&lab.encoder.host, rtmp(relay), STUDIO, &line.key));
    let at_s = WARM_UP_S + row.recovery_s.unwrap_or_default();
    sleep_until(feed.moment_us(at_s), Duration::ZERO);
    let shown = show.status()?["lines"][0]["relay"].clone();
    let dying = usize::from(
        shown
            .as_str()
            .is_some_and(|relay| relay.starts_with(RELAY_2)),
    );
    show.relays[dying].kill()?;
    let killed_us = unix_now_us();
    sleep_until(feed.end_us(), TAIL);
    let rows = show.units()?;
    let before = (rows.iter())
        .rfind(|row| row.is_video && row.taken == "played" && row.arrived_us < killed_us)
        .map(|row| row.publisher);
    let back_us = (rows.iter())
        .filter(|row| row.is_video && row.taken == "played" && row.arrived_us > killed_us)
        .filter(|row| Some(row.publisher) != before)
        .map(|row| row.arrived_us)
        .min();
    drop(show);
    for encoder in encoders {
        // One of them lost its relay.
        let _ = encoder?.finish()?;
    }
    let waited = back_us.map(|back_us| ms(back_us - killed_us));
    Ok(Figures::from([("seen_again_ms".to_owned(), waited)]))
}

/// The first line's delay beside a neighbour within its share, and beside one that sends four times its share.
fn neighbour(row: &Row, lab: &Lab, seed: u64) -> anyhow::Result<Figures> {
    let measure = |lab: &Lab, neighbour_bps| -> anyhow::Result<Figures> {
        let mut show = LabShow::start(lab, 1, DELAY_MS)?;
        let lines = show.add_lines(2)?;
        let feed = warmed(row.feed);
        let other = Feed {
            units: SyntheticFeed {
                video_bps: neighbour_bps,
                ..feed.units
            },
            ..feed
        };
        let encoders = [
            feed.publish(&lab.encoder.host, rtmp(RELAY), STUDIO, &lines[0].key)?,
            other.publish(&lab.encoder.host, rtmp(RELAY), STUDIO, &lines[1].key)?,
        ];
        sleep_until(feed.end_us(), TAIL);
        let rows = show.units()?;
        for encoder in encoders {
            encoder.finish()??;
        }
        Ok(figures(
            row,
            feed,
            &arrivals(&rows, &lines[0].name),
            DELAY_US,
        ))
    };
    let within = measure(lab, 2_000_000)?;
    let again = Lab::start(&row.encoder, &row.studio, seed)?;
    let mut beyond = measure(&again, 16_000_000)?;
    let p95 = |figures: &Figures| figures.get("picture_p95_ms").copied().flatten();
    let change = p95(&beyond)
        .zip(p95(&within))
        .map(|(beyond, within)| beyond - within);
    beyond.insert("picture_p95_within_ms".to_owned(), p95(&within));
    beyond.insert("change_ms".to_owned(), change);
    Ok(beyond)
}

fn tcp_bbr(row: &Row, lab: &mut Lab) -> anyhow::Result<Figures> {
    let feed = warmed(row.feed);
    let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, TCP_PORT));
    let server = tcp::serve(&lab.relay, listen, feed)?;
    let end_us = feed.end_us() + i64::try_from(TAIL.as_micros())?;
    let client = tcp::receive(
        &lab.studio.host,
        format!("{RELAY}:{TCP_PORT}").parse()?,
        end_us,
    )?;
    let downloads = play(row, lab, feed)?;
    let arrived = client.finish()??;
    drop(downloads);
    // It may have lost its client.
    let _ = server.finish()?;
    Ok(figures(row, feed, &arrived, DELAY_US))
}

fn srt(row: &Row, lab: &mut Lab) -> anyhow::Result<Figures> {
    let has_both_legs = row.encoder != super::tun::Shapes::default();
    let mut transmits = Vec::new();
    let source = if has_both_legs {
        // Half of D for each leg: the latencies add up.
        let half = DELAY_MS / 2;
        let hop = |mode: &str, port| format!("srt://{mode}:{port}?latency={half}&mode=");
        transmits.push(Transmit::start(
            &lab.relay,
            &(hop("", 9_000) + "listener"),
            &(hop("", 9_001) + "listener"),
        )?);
        thread::sleep(SETTLE);
        transmits.push(Transmit::start(
            &lab.encoder.host,
            &srt::input(),
            &(hop(RELAY, 9_000) + "caller"),
        )?);
        transmits.push(Transmit::call(
            &lab.studio.host,
            &format!("{RELAY}:9001"),
            half,
        )?);
        &lab.encoder.host
    } else {
        transmits.push(Transmit::listen(&lab.relay, 9_000, DELAY_MS)?);
        thread::sleep(SETTLE);
        transmits.push(Transmit::call(
            &lab.studio.host,
            &format!("{RELAY}:9000"),
            DELAY_MS,
        )?);
        &lab.relay
    };
    thread::sleep(SETTLE);
    let feed = warmed(row.feed);
    let sender = srt::send(source, feed)?;
    let end_us = feed.end_us() + i64::try_from(TAIL.as_micros())?;
    let receiver = srt::receive(&lab.studio.host, end_us)?;
    let downloads = play(row, lab, feed)?;
    sender.finish()??;
    let arrived = receiver.finish()??;
    drop(downloads);
    Ok(figures(row, feed, &arrived, DELAY_US + srt::SLACK_US))
}

/// Does what the script says, when it says so. What it began goes on beside.
fn play(row: &Row, lab: &mut Lab, feed: Feed) -> anyhow::Result<Vec<Inside<()>>> {
    let mut downloads = Vec::new();
    for (at_s, action) in &row.script {
        sleep_until(feed.moment_us(WARM_UP_S + at_s), Duration::ZERO);
        let uplink = &mut lab.studio.uplinks[0];
        match action {
            Action::Reshape(shapes) => uplink.link.reshape_both(shapes),
            Action::Fail(length) => uplink.link.fail(*length, Outage::Drops),
            Action::Rebind => uplink.rebind()?,
            Action::MoveOutside(host) => uplink.move_outside(*host)?,
            Action::MoveInside(host) => lab.studio.move_inside(0, *host)?,
            Action::BlockUdp => uplink.block_udp(true)?,
            Action::Download(length) => downloads.extend(download(lab, *length)?),
        }
    }
    Ok(downloads)
}

/// As fast as TCP CUBIC can, from the server to the studio.
fn download(lab: &Lab, length: Duration) -> anyhow::Result<[Inside<()>; 2]> {
    let address = format!("{SERVER}:{TCP_PORT}");
    let listener = lab.server.inside({
        let address = address.clone();
        move || TcpListener::bind(address)
    })?;
    let listener = listener.finish()??;
    let sender = lab.server.inside(move || {
        use std::io::Write;
        let Ok((mut socket, _)) = listener.accept() else {
            return;
        };
        let (start, bytes) = (Instant::now(), vec![0; 65_536]);
        // Ends with the time or with the client.
        while start.elapsed() < length && socket.write_all(&bytes).is_ok() {}
    })?;
    let receiver = lab.studio.host.inside(move || {
        use std::io::Read;
        let Ok(mut socket) = TcpStream::connect(address) else {
            return;
        };
        let start = Instant::now();
        let mut buffer = vec![0; 65_536];
        while start.elapsed() < length && matches!(socket.read(&mut buffer), Ok(1..)) {}
    })?;
    Ok([sender, receiver])
}

/// All that a row may ask for.
pub(super) fn figures(row: &Row, feed: Feed, arrived: &Arrivals, delay_us: i64) -> Figures {
    let take = feed.take(WARM_UP_S, arrived);
    let mut figures = of_take(&take, delay_us);
    if let Some(seconds) = row.recovery_s {
        let moment_us = feed.moment_us(WARM_UP_S + seconds);
        let whole_us = take.whole_again_us(moment_us, delay_us);
        figures.insert("whole_again_ms".to_owned(), Some(ms(whole_us)));
        for (name, us) in [
            ("heard_again_ms", take.heard_again_us(moment_us, delay_us)),
            ("seen_again_ms", take.seen_again_us(moment_us, delay_us)),
        ] {
            figures.insert(name.to_owned(), us.map(ms));
        }
    }
    figures
}

#[expect(clippy::cast_precision_loss, reason = "pictures of minutes")]
fn of_take(take: &Take, delay_us: i64) -> Figures {
    let score = take.score(delay_us);
    let frozen_s = (score.pictures - score.shown) as f64 / 30.0;
    [
        ("pictures", Some(score.pictures as f64)),
        ("arrived", Some(score.arrived as f64)),
        ("shown", Some(score.shown as f64)),
        ("frozen_s", Some(frozen_s)),
        ("freeze_ms", Some(score.freeze_ms)),
        ("picture_p50_ms", score.picture_ms.p50),
        ("picture_p95_ms", score.picture_ms.p95),
        ("picture_p99_ms", score.picture_ms.p99),
        ("picture_max_ms", score.picture_ms.max),
        ("audio_p50_ms", score.audio_ms.p50),
        ("audio_p95_ms", score.audio_ms.p95),
        ("audio_max_ms", score.audio_ms.max),
        ("heard", Some(score.heard as f64)),
        ("blocks", Some(score.blocks as f64)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// The length of a row is its point: nothing is waited for.
pub(super) fn sleep_until(moment_us: i64, more: Duration) {
    let wait_us = u64::try_from(moment_us - unix_now_us()).unwrap_or(0);
    thread::sleep(Duration::from_micros(wait_us) + more);
}

pub(super) const DELAY_US: i64 = DELAY_MS as i64 * 1_000;

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "4,000"
)]
const WARM_UP_MS: u32 = (WARM_UP_S * 1_000.0) as u32;

const TCP_PORT: u16 = 9_200;

/// A listener of SRT is there by then; there is nothing to ask.
const SETTLE: Duration = Duration::from_millis(500);
