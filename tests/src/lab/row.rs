//! A row of the laboratory's table: links, what happens to them, and what has to come of it.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    link::{Loss, Rate, Shape},
    trace::Lte,
    tun::Shapes,
};
use crate::encoder::SyntheticFeed;

/// Whose tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum System {
    /// Ours.
    Firstmile,
    /// One TCP connection with the kernel's BBR.
    TcpBbr,
    /// `srt-live-transmit`.
    Srt,
}

impl System {
    /// As people say it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Firstmile => "Firstmile",
            Self::TcpBbr => "TCP BBR",
            Self::Srt => "SRT",
        }
    }
}

/// What was measured, by name; `None`: it never came about. Times are milliseconds.
pub type Figures = BTreeMap<String, Option<f64>>;

/// A row.
#[derive(Clone, Debug)]
pub struct Row {
    /// For the command line and JSON.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// The encoder's link.
    pub encoder: Shapes,
    /// The studio's links.
    pub studio: Vec<Shapes>,
    /// What happens, seconds from the beginning of what is measured.
    pub script: Vec<(f64, Action)>,
    /// The moment from which recovery counts, seconds likewise.
    pub recovery_s: Option<f64>,
    /// What is sent, without the warm-up.
    pub feed: SyntheticFeed,
    /// Which others run beside it.
    pub peers: &'static [System],
    /// How it is run.
    pub kind: Kind,
    /// What must come of it.
    pub bounds: Vec<Bound>,
}

/// How a row is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One line; what the script says.
    Line,
    /// The venue blocks UDP before the connector starts.
    UdpBlockedAtStart,
    /// Two relays; the one that is shown is killed at [`Row::recovery_s`].
    RelayDies,
    /// Two lines; the second one sends within its share in a first run and four times its share in a second.
    Neighbour,
    /// Four lines, one of them on program; then a cut to another one.
    OnAir,
}

/// Something that happens to the studio's first link.
#[derive(Clone, Debug)]
pub enum Action {
    /// It is like this from now on.
    Reshape(Shapes),
    /// Nothing goes for so long.
    Fail(Duration),
    /// The carrier forgets every mapping.
    Rebind,
    /// The carrier has another public address.
    MoveOutside(u8),
    /// The modem gets another private address.
    MoveInside(u8),
    /// The venue lets no UDP through.
    BlockUdp,
    /// Somebody downloads beside it, by TCP CUBIC.
    Download(Duration),
}

/// Something that must be.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The name of the figure.
    pub figure: &'static str,
    /// What it must be.
    pub must: Must,
}

/// What a figure must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Must {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
    /// As much as another one's or more.
    AtLeastThatOf(System),
}

impl Row {
    fn new(name: &'static str, title: &'static str, down: Shape) -> Self {
        let up = Shape {
            rate: Rate::Constant(8_000_000),
            ..down.clone()
        };
        Self {
            name,
            title,
            encoder: Shapes::default(),
            studio: vec![Shapes { up, down }],
            script: Vec::new(),
            recovery_s: None,
            feed: feed(),
            peers: &[System::TcpBbr, System::Srt],
            kind: Kind::Line,
            bounds: Vec::new(),
        }
    }

    /// Whether it takes many minutes: it is measured once, and not in a hurry.
    pub fn is_long(&self) -> bool {
        self.feed.duration_ms > 60_000
    }

    fn at(mut self, seconds: f64, action: Action) -> Self {
        self.script.push((seconds, action));
        self
    }

    fn recovers_from(self, seconds: f64) -> Self {
        Self {
            recovery_s: Some(seconds),
            ..self
        }
    }

    fn run_as(self, kind: Kind) -> Self {
        Self {
            kind,
            peers: &[],
            ..self
        }
    }

    fn must(mut self, figure: &'static str, must: Must) -> Self {
        self.bounds.push(Bound { figure, must });
        self
    }
}

/// All rows; the last one takes ten minutes.
#[expect(clippy::too_many_lines, reason = "a table")]
pub fn rows() -> Vec<Row> {
    use Action::{BlockUdp, Download, Fail, MoveInside, MoveOutside, Rebind, Reshape};
    use Must::{AtLeast, AtLeastThatOf, AtMost};

    let all = AtLeast(600.0);
    let base = lte(30_000);
    let slow = Shapes {
        up: Shape {
            rate: Rate::Constant(8_000_000),
            ..base.clone()
        },
        down: Shape {
            rate: Rate::Constant(3_000_000),
            ..base.clone()
        },
    };
    let normal = Shapes {
        down: base.clone(),
        ..slow.clone()
    };
    let varying = Shapes {
        down: Shape {
            rate: Rate::Trace(overload().trace(TRACE_SEED)),
            ..base.clone()
        },
        ..slow.clone()
    };
    let one_percent = Shape {
        loss: Loss::Random(0.01),
        ..base.clone()
    };
    let outage = |ms| Fail(Duration::from_millis(ms));
    vec![
        Row::new("clean", "clean, 20 ms RTT", lte(10_000))
            .must("shown", all)
            .must("picture_p99_ms", AtMost(100.0)),
        Row::new("loss", "60 ms RTT, 1 % loss", one_percent.clone())
            .must("shown", all)
            .must("audio_p95_ms", AtMost(100.0)),
        Row::new(
            "bursts",
            "60 ms RTT, 3 % loss in bursts",
            Shape {
                loss: Loss::Bursts {
                    enter: 0.0062,
                    leave: 0.2,
                },
                ..base.clone()
            },
        )
        .must("shown", all)
        .must("audio_p95_ms", AtMost(100.0)),
        Row::new("dip", "dip to 3 Mbit/s for 5 s", base.clone())
            .at(7.0, Reshape(slow))
            .at(12.0, Reshape(normal))
            .recovers_from(12.0)
            .must("audio_p95_ms", AtMost(150.0))
            .must("whole_again_ms", AtMost(2_000.0)),
        Row::new("outage-1s", "outage of 1 s", base.clone())
            .at(8.0, outage(1_000))
            .recovers_from(9.0)
            .must("freeze_ms", AtMost(1_000.0))
            .must("heard_again_ms", AtMost(300.0)),
        Row::new("outage-3.3s", "outage of 3.3 s", base.clone())
            .at(8.0, outage(3_300))
            .recovers_from(11.3)
            .must("freeze_ms", AtMost(3_300.0))
            .must("heard_again_ms", AtMost(300.0)),
        Row::new("lte", "LTE-like trace with overload", base.clone())
            .at(0.0, Reshape(varying))
            .must("audio_p95_ms", AtMost(300.0))
            .must("shown", AtLeastThatOf(System::TcpBbr))
            .must("shown", AtLeastThatOf(System::Srt)),
        Row::new(
            "download",
            "bulk TCP download beside it, 8 of 20 s",
            base.clone(),
        )
        .at(6.0, Download(Duration::from_secs(8)))
        .must("shown", AtLeast(480.0))
        .must("audio_p95_ms", AtMost(400.0)),
        Row::new("rebind", "NAT rebinding", base.clone())
            .at(8.0, Rebind)
            .recovers_from(8.0)
            .must("shown", all)
            .must("picture_max_ms", AtMost(300.0)),
        Row::new(
            "public-ip",
            "the carrier's public address changes",
            base.clone(),
        )
        .at(8.0, MoveOutside(44))
        .recovers_from(8.0)
        .must("shown", all)
        .must("picture_max_ms", AtMost(300.0)),
        Row::new("modem-ip", "the modem's address changes", base.clone())
            .at(8.0, MoveInside(9))
            .recovers_from(8.0)
            .must("shown", all)
            .must("picture_max_ms", AtMost(300.0)),
        Row::new("udp-start", "UDP blocked at the start", base.clone())
            .run_as(Kind::UdpBlockedAtStart)
            .must("first_picture_ms", AtMost(1_500.0)),
        Row::new("udp-middle", "UDP blocked in the middle", base.clone())
            .at(8.0, BlockUdp)
            .recovers_from(8.0)
            // What was on its way still comes; the gap is behind it.
            .must("whole_again_ms", AtMost(3_000.0)),
        Row {
            feed: SyntheticFeed {
                video_bps: 4_000_000,
                has_disposables: true,
                ..feed()
            },
            ..Row::new(
                "on-air",
                "4 lines of 4 Mbit/s on 9 Mbit/s, one on program",
                Shape {
                    rate: Rate::Constant(9_000_000),
                    ..base.clone()
                },
            )
        }
        .run_as(Kind::OnAir)
        .must("program_shown", all)
        .must("cut_ms", AtMost(400.0)),
        Row {
            feed: SyntheticFeed {
                video_bps: 2_000_000,
                ..feed()
            },
            ..Row::new(
                "neighbour",
                "two lines on 8 Mbit/s, one sends 4 times its share",
                Shape {
                    rate: Rate::Constant(8_000_000),
                    ..base.clone()
                },
            )
        }
        .run_as(Kind::Neighbour)
        .must("change_ms", AtMost(10.0)),
        Row::new(
            "relay-dies",
            "relay 1 dies, the encoder also publishes to relay 2",
            base,
        )
        .run_as(Kind::RelayDies)
        .recovers_from(8.0)
        .must("seen_again_ms", AtMost(2_500.0)),
        Row {
            encoder: Shapes {
                up: one_percent.clone(),
                down: one_percent.clone(),
            },
            feed: SyntheticFeed {
                duration_ms: 600_000,
                ..feed()
            },
            peers: &[System::Srt],
            ..Row::new(
                "both-legs",
                "both legs at 60 ms RTT, 1 % loss, 10 min",
                one_percent,
            )
        }
        .must("frozen_s", AtMost(f64::INFINITY)),
    ]
}

/// 20 Mbit/s down with 500 kB of queue, `delay_us` each way.
fn lte(delay_us: i64) -> Shape {
    Shape {
        rate: Rate::Constant(20_000_000),
        delay_us,
        ..Shape::default()
    }
}

/// Around 13 Mbit/s, in fades far below the stream's rate. It begins with what is measured.
fn overload() -> Lte {
    Lte {
        seconds: 24,
        mean_mbps: 13.0,
        fade_every_s: 8.0,
        fade_s: 1.5,
        fade_depth: 0.12,
        ..Lte::default()
    }
}

/// 6 Mbit/s at 30 a second with a keyframe of 8 pictures' weight every 2 s, and sound; 600 pictures.
fn feed() -> SyntheticFeed {
    SyntheticFeed {
        keyframe_weight: 8,
        duration_ms: 20_000,
        ..SyntheticFeed::default()
    }
}

/// The trace is the same for everybody, and in each repetition.
const TRACE_SEED: u64 = 5;

/// The studio delay D of all rows, milliseconds.
pub const DELAY_MS: u32 = 600;

/// Sent before what is measured, seconds: two GOPs.
pub const WARM_UP_S: f64 = 4.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_names_of_their_own_and_figures_that_are_measured() {
        let rows = rows();
        for (number, row) in rows.iter().enumerate() {
            assert!(rows[..number].iter().all(|other| other.name != row.name));
            assert!(!row.bounds.is_empty(), "{}", row.name);
            let begins: Vec<_> = row.script.iter().map(|(at_s, _)| *at_s).collect();
            assert!(begins.is_sorted_by(|one, next| one <= next), "{}", row.name);
        }
    }

    #[test]
    fn the_trace_overloads_the_link_and_lets_it_recover() {
        let mut seconds = [0.0_f64; 24];
        for time_us in overload().trace(TRACE_SEED) {
            if let Some(mbps) = usize::try_from(time_us / 1_000_000)
                .ok()
                .and_then(|n| seconds.get_mut(n))
            {
                *mbps += 0.012;
            }
        }
        let below = seconds[..20].iter().filter(|mbps| **mbps < 6.2).count();
        assert!((3..=9).contains(&below), "{seconds:.1?}");
        assert!(seconds[0] > 6.2, "{seconds:.1?}");
    }
}
