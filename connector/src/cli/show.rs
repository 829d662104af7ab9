//! What a person reads: aligned columns, plain words, and nothing that could steer a terminal.

use std::fmt::Write;

use firstmile_shared::{secret::Secret, text};
use serde_json::Value;

use crate::{
    config::{Config, Isolation, OutputDefault, PROGRAM},
    control::LineInfo,
    events::Event,
    lines::settings::Format,
};

/// A new line: what to give to the encoder. Scripts read `url: ` and `key: `.
pub(super) fn added(info: &LineInfo) -> String {
    let url = info.urls.first().map_or(
        "(known once a relay was joined: firstmile-connector join)",
        Secret::expose,
    );
    format!("url: {url}\nkey: {}\n", info.key.expose())
}

/// Each on a line of its own, the one to try first at the top.
pub(super) fn urls(urls: &[Secret]) -> String {
    urls.iter().fold(String::new(), |mut text, url| {
        let _ = writeln!(text, "{}", url.expose());
        text
    })
}

/// All lines.
pub(super) fn lines(infos: &[LineInfo]) -> String {
    if infos.is_empty() {
        return "no lines yet: firstmile-connector line add \"Camera 1\"\n".to_owned();
    }
    let mut table = Table::new(&["LINE", "", "DELAY", "ADDRESS"]);
    for info in infos {
        let url = info
            .urls
            .first()
            .map_or("(no relay joined)", Secret::expose);
        let enabled = if info.enabled { "on" } else { "off" };
        table.row([&info.name, enabled, &format!("{} ms", info.delay_ms), url]);
    }
    table.finish()
}

/// One line's settings, as `line set` takes them.
pub(super) fn settings(info: &LineInfo) -> String {
    let mut text = String::new();
    for (key, value) in &info.settings {
        let _ = writeln!(text, "{key} = {}", printable(value));
    }
    text
}

/// What `line set` did: the values as they were understood, and what they can't do together.
pub(super) fn set(info: &LineInfo, keys: &[String]) -> String {
    let values: Vec<String> = (info.settings.iter())
        .filter(|(key, _)| keys.contains(key))
        .map(|(key, value)| format!("{key} = {}", printable(value)))
        .collect();
    let trim = (info.settings.iter()).find(|(key, _)| key == "audio_trim_ms");
    let trim: i64 = trim.map_or(0, |(_, value)| value.parse().unwrap_or_default());
    let warning = if trim < 0 && -trim >= i64::from(info.delay_ms) {
        format!(
            "\nwarning: audio_trim_ms = {trim} asks for sound before it has come: the delay is {} ms, make it longer",
            info.delay_ms
        )
    } else {
        String::new()
    };
    format!(
        "line {:?} is set: {}{warning}",
        info.name,
        values.join(", ")
    )
}

/// `check-config`: every setting that acts, with the value in force.
pub(super) fn config(config: &Config) -> String {
    let groups = config.ndi.groups.join(", ");
    let rows = [
        ("delay", format!("{} ms", config.delay.0.ms())),
        ("slate", config.slate.0.to_string()),
        (
            "show_format",
            config
                .show_format
                .0
                .map_or_else(|| "auto".to_owned(), |show| Format::from(show).to_string()),
        ),
        ("http.listen", config.http.listen.to_string()),
        (
            "output.default",
            match config.output.default {
                OutputDefault::Ndi => "ndi",
                OutputDefault::Null => "null",
            }
            .to_owned(),
        ),
        (
            "ndi.groups",
            if groups.is_empty() {
                "public".to_owned()
            } else {
                groups
            },
        ),
        (
            "decoder.isolation",
            match config.decoder.isolation {
                Isolation::Process => "process",
                Isolation::Thread => "thread",
            }
            .to_owned(),
        ),
        (
            "decoder.max_pixels",
            config.decoder.max_pixels.0.to_string(),
        ),
        ("tunnel.congestion", config.tunnel.congestion.to_string()),
        (
            "tunnel.segmentation_offload",
            config.tunnel.segmentation_offload.to_string(),
        ),
        ("log.level", config.log.level.as_str().to_owned()),
    ];
    rows.map(|(key, value)| format!("{key} = {}\n", printable(&value)))
        .concat()
}

/// The status, from its JSON.
pub(super) fn status(status: &Value) -> String {
    let list = |name: &str| status[name].as_array().cloned().unwrap_or_default();
    let notices: String = list("notices").iter().map(notice).collect();
    let lines = list("lines");
    notices + &relays(&list("relays")) + "\n" + &line_states(&lines) + &findings(&lines)
}

/// What is wrong with the feeds, a sentence each.
fn findings(lines: &[Value]) -> String {
    let mut all = String::new();
    for finding in (lines.iter()).flat_map(|line| line["findings"].as_array().into_iter().flatten())
    {
        let part = |name: &str| printable(finding[name].as_str().unwrap_or_default());
        all += &[
            &part("severity"),
            ": ",
            &part("text").replace('\n', " "),
            "\n",
        ]
        .concat();
    }
    if all.is_empty() {
        all
    } else {
        format!("\n{all}")
    }
}

/// For `status --help`.
pub(super) const STATUS_COLUMNS: &str = "\
Columns:
  LOST    packets that the network lost on the way from the relay
  DELAY   how old a picture is when it is shown
  LAG     what the encoder and its uplink hold back; above DELAY, pictures come too late
  MISSED  pictures not shown since the start: late, left out, lost or damaged";

/// What happened, the newest at the end.
pub(super) fn events(events: &[Event]) -> String {
    if events.is_empty() {
        return "nothing has happened yet\n".to_owned();
    }
    let mut table = Table::new(&["TIME", "LINE", "RELAY", "WHAT"]);
    for event in events {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        table.row([
            &event.at,
            &or_dash(&event.line),
            &or_dash(&event.relay),
            &event.text,
        ]);
    }
    table.finish()
}

fn notice(notice: &Value) -> String {
    let part = |name: &str| printable(notice[name].as_str().unwrap_or_default());
    let remedy = if notice["remedy"].is_string() {
        format!("  {}\n", part("remedy"))
    } else {
        String::new()
    };
    format!("{}: {}\n{remedy}\n", part("severity"), part("text"))
}

fn relays(relays: &[Value]) -> String {
    if relays.is_empty() {
        return "no relay joined: firstmile-connector join\n".to_owned();
    }
    let mut table = Table::new(&["RELAY", "STATE", "BY", "ROUND TRIP", "LOST", ""]);
    for relay in relays {
        let is_up = relay["state"] == "connected";
        let number = |name: &str, digits: usize, unit: &str| match relay[name].as_f64() {
            Some(value) if is_up => format!("{value:.digits$} {unit}"),
            _ => "-".to_owned(),
        };
        table.row([
            word(&relay["address"]),
            word(&relay["state"]),
            if is_up {
                word(&relay["transport"])
            } else {
                "-"
            },
            &number("rtt_ms", 0, "ms"),
            &number("lost_percent", 1, "%"),
            relay["reason"].as_str().unwrap_or_default(),
        ]);
    }
    table.finish()
}

fn line_states(lines: &[Value]) -> String {
    if lines.is_empty() {
        return "no lines yet: firstmile-connector line add \"Camera 1\"\n".to_owned();
    }
    let mut table = Table::new(&[
        "LINE", "STATE", "DELAY", "PICTURE", "BITRATE", "LAG", "MISSED", "",
    ]);
    for line in lines {
        let video = &line["video"];
        let picture = match (video["width"].as_u64(), video["height"].as_u64()) {
            (Some(width), Some(height)) => match video["fps"].as_f64() {
                Some(fps) => format!("{width}x{height} {}", trimmed(fps)),
                None => format!("{width}x{height}"),
            },
            _ => "-".to_owned(),
        };
        let ms = |value: &Value| {
            value
                .as_f64()
                .map_or("-".to_owned(), |ms| format!("{ms:.0} ms"))
        };
        let bitrate = line["bitrate_bps"].as_f64();
        let missed: u64 = [
            "late_total",
            "dropped_total",
            "lost_total",
            "decode_errors_total",
        ]
        .iter()
        .filter_map(|name| video[name].as_u64())
        .sum();
        table.row([
            word(&line["name"]),
            word(&line["state"]),
            &ms(&line["delay_ms"]),
            &picture,
            &bitrate.map_or("-".to_owned(), |bps| format!("{:.1} Mbit/s", bps / 1e6)),
            &ms(&line["encoder_lag_ms"]),
            &missed.to_string(),
            line["reason"].as_str().unwrap_or_default(),
        ]);
    }
    table.finish() + &lines.iter().map(decisions).collect::<String>()
}

/// Encoders on whose fate the operator decides, each with the command for it.
fn decisions(line: &Value) -> String {
    let rivals = |list: &str| line[list].as_array().cloned().unwrap_or_default();
    let (held, refused) = (rivals("held"), rivals("refused"));
    let name = printable(word(&line["name"])).replace('\n', " ");
    let mut text = String::new();
    let mut say = |rival: &Value, is: &str, command: &str, several: bool| {
        let who = printable(&format!(
            "{}, {}",
            word(&rival["encoder"]),
            word(&rival["peer"])
        ));
        let number = match rival["publisher"].as_u64() {
            Some(number) if several => format!(" {number}"),
            _ => String::new(),
        };
        let who = who.replace('\n', " ");
        let _ = writeln!(
            text,
            "\n{name}: {who} {is}: {PROGRAM} line {command} \"{name}\"{number}"
        );
    };
    for rival in &held {
        say(rival, "waits", "take|refuse", held.len() > 1);
    }
    for rival in &refused {
        // While one waits, the command without a number is about that one.
        let several = refused.len() > 1 || !held.is_empty();
        say(rival, "was refused; to let it try again", "take", several);
    }
    text
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// "30", "29.97".
fn trimmed(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Names of encoders come from strangers: an escape sequence in one must not reach the terminal.
fn printable(text: &str) -> String {
    let is_bad = |c: char| text::is_deceptive(c) && c != '\n';
    text.replace(is_bad, "\u{fffd}")
}

/// Columns two spaces apart, as wide as their widest cell.
#[derive(Debug)]
struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    fn new(heads: &[&str; N]) -> Self {
        Self {
            rows: vec![heads.map(str::to_owned)],
        }
    }

    fn row(&mut self, cells: [&str; N]) {
        self.rows
            .push(cells.map(|cell| printable(cell).replace('\n', " ")));
    }

    fn finish(self) -> String {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let line: Vec<String> = (row.iter().zip(widths))
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            text.push_str(line.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_address_has_a_line_of_its_own() {
        let all = [
            "rtmp://relay.example/truck1/k",
            "rtmps://relay.example:1936/truck1/k",
        ];
        let secrets = all.map(|url| Secret::new(url.to_owned()));
        assert_eq!(urls(&secrets), format!("{}\n{}\n", all[0], all[1]));
    }

    #[test]
    fn a_status_reads_like_a_sentence_per_line() {
        let shown = status(&json!({
            "relays": [{"address": "vps.example:4433", "state": "connected", "transport": "quic", "rtt_ms": 41.6, "lost_percent": 0.25, "reason": null}],
            "lines": [
                {"name": "Camera 1", "state": "live", "reason": null, "delay_ms": 600, "encoder_lag_ms": 80, "bitrate_bps": 5_900_000,
                 "video": {"width": 1920, "height": 1080, "fps": 29.97, "late_total": 1, "dropped_total": 2, "lost_total": 0, "decode_errors_total": 0},
                 "findings": [{"code": "no_sound", "severity": "warning", "side": "encoder", "text": "Camera 1's \u{1b}phone sends no sound"}]},
                {"name": "Drone", "state": "waiting", "reason": "waiting for \u{1b}[31mDJI", "delay_ms": 1500, "encoder_lag_ms": null, "bitrate_bps": null,
                 "video": {"width": null}},
            ],
            "notices": [{"severity": "warning", "text": "No NDI® runtime was found.", "remedy": "Get it from ndi.video."}],
        }));
        assert_eq!(
            shown,
            "warning: No NDI® runtime was found.\n  Get it from ndi.video.\n\n\
             RELAY             STATE      BY    ROUND TRIP  LOST\n\
             vps.example:4433  connected  quic  42 ms       0.2 %\n\n\
             LINE      STATE    DELAY    PICTURE          BITRATE     LAG    MISSED\n\
             Camera 1  live     600 ms   1920x1080 29.97  5.9 Mbit/s  80 ms  3\n\
             Drone     waiting  1500 ms  -                -           -      0       waiting for \u{fffd}[31mDJI\n\n\
             warning: Camera 1's \u{fffd}phone sends no sound\n"
        );
    }

    #[test]
    fn whoever_waits_stands_with_the_command_that_decides() {
        let rival = |publisher: u32| json!({"encoder": "Larix", "peer": "[2001:db8::1]:5000", "publisher": publisher});
        let shown = |held: Value, refused: Value| {
            decisions(&json!({"name": "Camera 1", "held": held, "refused": refused}))
        };
        assert_eq!(
            shown(json!([rival(7)]), json!([])),
            "\nCamera 1: Larix, [2001:db8::1]:5000 waits: firstmile-connector line take|refuse \"Camera 1\"\n"
        );
        let several = shown(json!([rival(7), rival(8)]), json!([rival(9)]));
        for number in [
            "take|refuse \"Camera 1\" 7",
            "take|refuse \"Camera 1\" 8",
            "line take \"Camera 1\" 9",
        ] {
            assert!(several.contains(&format!("{number}\n")), "{several}");
        }
        assert!(several.contains("was refused"), "{several}");
        assert_eq!(shown(json!([]), json!([])), "");
    }

    #[test]
    fn a_line_that_was_set_says_how_its_values_were_understood() {
        let mut line = crate::lines::settings::Settings::default();
        line.set("hold", "3").unwrap();
        line.set("audio_trim_ms", "-700").unwrap();
        let info = LineInfo {
            id: 1,
            name: "Camera 1".to_owned(),
            key: Secret::new("k"),
            urls: Vec::new(),
            server: None,
            enabled: true,
            delay_ms: 600,
            settings: line.all(),
        };
        assert_eq!(
            set(&info, &["hold".to_owned()]),
            "line \"Camera 1\" is set: hold = 3s\nwarning: audio_trim_ms = -700 asks for sound before it has come: the \
             delay is 600 ms, make it longer"
        );
        assert!(settings(&info).contains("takeover = smart\n"));
    }

    #[test]
    fn an_empty_status_says_what_to_do_next() {
        let shown = status(&json!({"relays": [], "lines": [], "notices": []}));
        assert_eq!(
            shown,
            "no relay joined: firstmile-connector join\n\nno lines yet: firstmile-connector line add \"Camera 1\"\n"
        );
    }
}
