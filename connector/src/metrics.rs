//! What the connector measures, for Prometheus: `firstmile_connector_*`, base units (seconds, bits per second).
//!
//! Nothing is counted here: the parts count for themselves, and each scrape is made from one [`Status`]. The only
//! label values are line names, which the operator gave, and words of this program; nothing from the wire.

use prometheus::{
    TextEncoder,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

use crate::{
    playout::{HistogramSnapshot, LineSnapshot, LineState},
    status::Status,
    tunnel::RelayState,
};

/// The text exposition format.
pub fn render(status: &Status) -> prometheus::Result<String> {
    let families = [program(status), relays(status), lines(status)].concat();
    let filled: Vec<_> = families
        .into_iter()
        .filter(|family| !family.get_metric().is_empty())
        .collect();
    TextEncoder::new().encode_to_string(&filled)
}

fn program(status: &Status) -> Vec<MetricFamily> {
    vec![gauges(
        "build_info",
        "The version that runs; always 1",
        vec![(vec![("version", status.version.to_owned())], Some(1.0))],
    )]
}

fn relays(status: &Status) -> Vec<MetricFamily> {
    let count = |state: RelayState| {
        let count = status.relays.iter().filter(|r| r.state == state).count();
        u32::try_from(count).ok().map(f64::from)
    };
    let known = [
        ("connected", RelayState::Connected),
        ("dialing", RelayState::Dialing),
        ("refused", RelayState::Refused),
    ];
    vec![gauges(
        "relays",
        "Relays that were joined, by the state of the connection",
        (known.into_iter())
            .map(|(name, state)| (vec![("state", name.to_owned())], count(state)))
            .collect(),
    )]
}

fn lines(status: &Status) -> Vec<MetricFamily> {
    let lines: Vec<&LineSnapshot> = status.lines.iter().map(|line| &line.snapshot).collect();
    let each = |value: &dyn Fn(&LineSnapshot) -> Option<f64>| -> Vec<Sample> {
        (lines.iter())
            .map(|line| (vec![("line", line.name.clone())], value(line)))
            .collect()
    };
    vec![
        gauges(
            "line_live",
            "1 while pictures of the feed are shown",
            each(&|line| Some(f64::from(line.state == LineState::Live))),
        ),
        gauges(
            "line_delay_seconds",
            "The studio delay in force",
            each(&|line| Some(f64::from(line.delay_ms) / 1000.0)),
        ),
        gauges(
            "line_encoder_lag_seconds",
            "What the encoder and its uplink hold back",
            each(&|line| line.encoder_lag_ms.map(|ms| f64::from(ms) / 1000.0)),
        ),
        gauges(
            "line_av_offset_seconds",
            "How much later the sound is than the picture, at the output, median of 10 s",
            each(&|line| line.av_offset_ms.map(|ms| ms / 1000.0)),
        ),
        gauges(
            "line_bitrate_bits_per_second",
            "What the relay gets from the encoder",
            each(&|line| line.bitrate_bps.map(count)),
        ),
        counters(
            "units_total",
            "Coded units that arrived",
            (lines.iter())
                .flat_map(|line| {
                    let of = |kind: &str, units: u64| {
                        let labels = vec![
                            ("direction", "in".to_owned()),
                            ("kind", kind.to_owned()),
                            ("line", line.name.clone()),
                        ];
                        (labels, Some(count(units)))
                    };
                    let (video, audio) = (line.video.units_total, line.audio.units_total);
                    [of("video", video), of("audio", audio)]
                })
                .collect(),
        ),
        counters(
            "units_dropped_total",
            "Pictures not shown, by reason: policy (left out on purpose), lost (never came), damaged (not decodable)",
            (lines.iter())
                .flat_map(|line| {
                    let of = |reason: &str, units: u64| {
                        let labels =
                            vec![("line", line.name.clone()), ("reason", reason.to_owned())];
                        (labels, Some(count(units)))
                    };
                    let video = &line.video;
                    [
                        of("policy", video.dropped_total),
                        of("lost", video.lost_total),
                        of("damaged", video.decode_errors_total),
                    ]
                })
                .collect(),
        ),
        counters(
            "units_late_total",
            "Pictures that came after their due time and were not shown",
            each(&|line| Some(count(line.video.late_total))),
        ),
        counters(
            "decoder_restarts_total",
            "Decoders that crashed or hung and were replaced",
            each(&|line| Some(count(line.video.decoder_restarts_total))),
        ),
        histograms(&lines),
    ]
}

/// Labels and a value; none is not exported.
type Sample = (Vec<(&'static str, String)>, Option<f64>);

fn gauges(name: &str, help: &str, samples: Vec<Sample>) -> MetricFamily {
    family(name, help, MetricType::GAUGE, samples, |metric, value| {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    })
}

fn counters(name: &str, help: &str, samples: Vec<Sample>) -> MetricFamily {
    family(name, help, MetricType::COUNTER, samples, |metric, value| {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    })
}

fn histograms(lines: &[&LineSnapshot]) -> MetricFamily {
    let metrics = (lines.iter())
        .flat_map(|line| line.histograms.iter().map(|hop| (&line.name, hop)))
        .map(|(line, hop)| {
            let labels = vec![("hop", hop.hop.to_owned()), ("line", line.clone())];
            let mut metric = Metric::from_label(pairs(labels));
            metric.set_histogram(histogram(hop));
            metric
        })
        .collect();
    describe(
        "hop_seconds",
        "Where the time of a unit goes, since program start",
        MetricType::HISTOGRAM,
        metrics,
    )
}

fn histogram(hop: &HistogramSnapshot) -> Histogram {
    let buckets = (hop.buckets.iter()).map(|(bound, count)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(*count);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_sum(hop.sum);
    histogram.set_sample_count(hop.count);
    histogram
}

fn family(
    name: &str,
    help: &str,
    kind: MetricType,
    samples: Vec<Sample>,
    set: impl Fn(&mut Metric, f64),
) -> MetricFamily {
    let metrics = (samples.into_iter())
        .filter_map(|(labels, value)| {
            let mut metric = Metric::from_label(pairs(labels));
            set(&mut metric, value?);
            Some(metric)
        })
        .collect();
    describe(name, help, kind, metrics)
}

fn describe(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(format!("firstmile_connector_{name}"));
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn pairs(labels: Vec<(&'static str, String)>) -> Vec<LabelPair> {
    (labels.into_iter())
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value);
            pair
        })
        .collect()
}

/// Prometheus' numbers are floating point: exact up to 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "2^53 units are 9 million years of video"
)]
fn count(units: u64) -> f64 {
    units as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        playout::{AudioSnapshot, HopsSnapshot, VideoSnapshot},
        status::LineStatus,
    };

    #[test]
    fn a_scrape_says_what_the_status_says_in_base_units() {
        let status = Status {
            version: "1.2.3",
            host: "VMIX-PC".into(),
            studio: None,
            relays: Vec::new(),
            lines: vec![LineStatus {
                id: 1,
                findings: vec![],
                held: Vec::new(),
                refused: Vec::new(),
                frozen: false,
                snapshot: LineSnapshot {
                    name: "Kran \"süd\"".into(),
                    state: LineState::Live,
                    reason: None,
                    relay: None,
                    encoder: Some("from the wire".into()),
                    encoder_lag_ms: Some(250),
                    accepted_lag_ms: 0,
                    delay_ms: 600,
                    video: VideoSnapshot {
                        units_total: 300,
                        late_total: 2,
                        lost_total: 1,
                        ..VideoSnapshot::default()
                    },
                    audio: AudioSnapshot::default(),
                    hops_ms: HopsSnapshot::default(),
                    av_offset_ms: None,
                    bitrate_bps: None,
                    tracks: Vec::new(),
                    timecode: None,
                    outputs: Vec::new(),
                    histograms: vec![HistogramSnapshot {
                        hop: "decode",
                        buckets: vec![(0.01, 3), (0.1, 4)],
                        sum: 0.05,
                        count: 4,
                    }],
                },
            }],
            notices: Vec::new(),
        };
        let text = render(&status).unwrap();
        for line in [
            r#"firstmile_connector_build_info{version="1.2.3"} 1"#,
            r#"firstmile_connector_relays{state="connected"} 0"#,
            r#"firstmile_connector_line_live{line="Kran \"süd\""} 1"#,
            r#"firstmile_connector_line_encoder_lag_seconds{line="Kran \"süd\""} 0.25"#,
            r#"firstmile_connector_units_total{direction="in",kind="video",line="Kran \"süd\""} 300"#,
            r#"firstmile_connector_units_dropped_total{line="Kran \"süd\"",reason="lost"} 1"#,
            r#"firstmile_connector_units_late_total{line="Kran \"süd\""} 2"#,
            r#"firstmile_connector_hop_seconds_bucket{hop="decode",line="Kran \"süd\"",le="0.1"} 4"#,
            r#"firstmile_connector_hop_seconds_bucket{hop="decode",line="Kran \"süd\"",le="+Inf"} 4"#,
            "# TYPE firstmile_connector_hop_seconds histogram",
        ] {
            assert!(
                text.lines().any(|there| there == line),
                "{line}\nis not in\n{text}"
            );
        }
        assert!(
            !text.contains("av_offset"),
            "what is not known is not exported\n{text}"
        );
        assert!(!text.contains("from the wire"), "{text}");
    }
}
