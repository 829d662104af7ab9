//! What the relay measures. One struct, shared by reference: no globals, so two relays in one test process do not
//! share counters. The only file that knows `prometheus`.
//!
//! Names are `firstmile_relay_<what>_<unit>[_total]` in base units. A label's value is one of an enum's, or the name
//! of a studio, which only the operator makes: nothing from the wire can mint a time series. METRICS.md lists them, and a
//! test holds it against a running relay.

use std::fmt;

use firstmile_shared::tunnel::control::DropReason;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, core::Collector,
};

/// The relay's metrics. A field exists only if some line of code updates it.
pub struct Metrics {
    registry: Registry,
    hops: HistogramVec,
    units: IntCounterVec,
    units_dropped: IntCounterVec,
    units_late: IntCounter,
    bytes: IntCounterVec,
    publishers: IntGaugeVec,
    connectors: IntGaugeVec,
    connections: IntGaugeVec,
    refusals: IntCounterVec,
    takeovers: IntCounter,
    resyncs: IntCounterVec,
}

/// A stretch of a unit's way that the relay can time: the `hop` label. The network's is timed by the connector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// From the encoder's clock to the relay: the age at ingest.
    Ingest,
    /// From ingest to the first byte given to the connection.
    Scheduler,
}

/// Which way units go: the `direction` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From encoders.
    In,
    /// To connectors.
    Out,
}

/// Why a unit was not sent: the `reason` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// By the scheduler of one connection.
    Scheduler(DropReason),
    /// No connector of the studio is there to take it.
    NoConnector,
    /// Its publisher waits for another one to end.
    Held,
}

/// What was done about an encoder that is behind: the `action` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resync {
    /// Its connection was closed, because it did not catch up.
    Reconnect,
    /// Its lag was accepted.
    Accept,
    /// Its connection was closed, because the operator wanted it.
    Operator,
}

/// Where somebody connects: the `listener` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Encoders.
    Rtmp,
    /// Encoders with TLS.
    Rtmps,
    /// Connectors.
    Tunnel,
    /// The API, the metrics, the page.
    Http,
}

/// Why somebody was turned away: the `reason` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refused {
    /// An encoder with a wrong key, or for a studio that is not there.
    UnknownKey,
    /// The relay takes no new publishers.
    Draining,
    /// A limit of the configuration.
    Full,
    /// An encoder that does not speak RTMP as it should.
    Protocol,
    /// Somebody who did not say who he is in time.
    TooSlow,
    /// A connector that was never enrolled, or was revoked.
    UnknownConnector,
    /// A join token that is not valid.
    Token,
    /// An encoder that the studio's operator refused.
    ByStudio,
    /// RTMPS, or a browser, on the port of RTMP.
    TlsOnRtmp,
    /// RTMP on the port of RTMPS.
    RtmpOnRtmps,
    /// RTMPE, which is not spoken.
    Rtmpe,
    /// HTTP, on either port.
    Http,
    /// A bare MPEG transport stream.
    MpegTs,
    /// A TLS handshake that came to nothing.
    Tls,
    /// A PROXY protocol header from nobody of the configuration, or none where there has to be one.
    Proxy,
}

impl Metrics {
    /// All metrics at zero.
    ///
    /// # Panics
    /// Never: a name that is wrong or there twice fails in every test that makes one.
    #[expect(
        clippy::expect_used,
        reason = "names are constants and a test makes one"
    )]
    pub fn new() -> Self {
        Self::register().expect("the names of the metrics are valid and different")
    }

    fn register() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let r = &registry;
        let info = gauges(r, "build_info", "The program's version", &["version"])?;
        info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Self {
            hops: histogram(
                r,
                "hop_seconds",
                "Time that units took, by stretch of the way",
                &["hop"],
            )?,
            units: counters(r, "units_total", "Units that passed", &["direction"])?,
            units_dropped: counters(
                r,
                "units_dropped_total",
                "Units left out on purpose",
                &["reason"],
            )?,
            units_late: add(
                r,
                IntCounter::new(
                    name("units_late_total"),
                    "Units older than their line's delay when they came in",
                )?,
            )?,
            bytes: counters(r, "bytes_total", "Payload of the units", &["direction"])?,
            publishers: gauges(
                r,
                "publishers",
                "Encoders that publish or are held",
                &["studio"],
            )?,
            connectors: gauges(r, "connectors", "Connectors connected", &["studio"])?,
            connections: gauges(r, "connections", "Connections open", &["listener"])?,
            refusals: counters(
                r,
                "refusals_total",
                "Encoders and connectors turned away",
                &["reason"],
            )?,
            takeovers: add(
                r,
                IntCounter::new(
                    name("takeovers_total"),
                    "Publishers that took a line over from another",
                )?,
            )?,
            resyncs: counters(
                r,
                "resyncs_total",
                "Encoders that were behind and something was done about",
                &["action"],
            )?,
            registry,
        };
        metrics.show_zeros();
        Ok(metrics)
    }

    /// A counter that appears with its first event has no rate at that event: all are there from the start.
    fn show_zeros(&self) {
        for hop in Hop::ALL {
            self.hop(hop);
        }
        for direction in Direction::ALL {
            for counter in [&self.units, &self.bytes] {
                counter.with_label_values(&[direction.label()]);
            }
        }
        for reason in Dropped::ALL {
            self.units_dropped.with_label_values(&[reason.label()]);
        }
        for listener in Listener::ALL {
            self.connections.with_label_values(&[listener.label()]);
        }
        for action in Resync::ALL {
            self.resyncs.with_label_values(&[action.label()]);
        }
        for reason in Refused::ALL {
            self.refusals.with_label_values(&[reason.label()]);
        }
    }

    /// A unit spent this long on a stretch; negative times count as zero.
    pub fn observe_hop(&self, hop: Hop, us: i64) {
        self.hop(hop).observe(seconds(us));
    }

    /// A unit came in or went out.
    pub fn unit(&self, direction: Direction, payload_len: usize) {
        let direction = [direction.label()];
        self.units.with_label_values(&direction).inc();
        self.bytes
            .with_label_values(&direction)
            .inc_by(payload_len as u64);
    }

    /// Units were left out.
    pub fn dropped(&self, reason: Dropped, units: u64) {
        self.units_dropped
            .with_label_values(&[reason.label()])
            .inc_by(units);
    }

    /// A unit was older than its line's delay when it came in.
    pub fn late(&self) {
        self.units_late.inc();
    }

    /// Somebody was turned away.
    pub fn refused(&self, reason: Refused) {
        self.refusals.with_label_values(&[reason.label()]).inc();
    }

    /// A publisher took over from another.
    pub fn takeover(&self) {
        self.takeovers.inc();
    }

    /// Something was done about an encoder that was behind.
    pub fn resync(&self, action: Resync) {
        self.resyncs.with_label_values(&[action.label()]).inc();
    }

    /// A publisher of this studio came (1) or went (-1).
    pub fn publishers(&self, studio: &str, change: i64) {
        self.publishers.with_label_values(&[studio]).add(change);
    }

    /// A connector of this studio came (1) or went (-1).
    pub fn connectors(&self, studio: &str, change: i64) {
        self.connectors.with_label_values(&[studio]).add(change);
    }

    /// Counts a connection for as long as the answer lives.
    pub fn connection(&self, listener: Listener) -> OpenConnection {
        OpenConnection::new(self.connections.with_label_values(&[listener.label()]))
    }

    /// The text exposition format.
    pub fn render(&self) -> String {
        prometheus::TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_else(|error| format!("# {error}\n"))
    }

    fn hop(&self, hop: Hop) -> Histogram {
        self.hops.with_label_values(&[hop.label()])
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// A connection in the gauge; leaves it when it is dropped.
#[derive(Debug)]
pub struct OpenConnection(IntGauge);

impl OpenConnection {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Hop {
    const ALL: [Self; 2] = [Self::Ingest, Self::Scheduler];

    const fn label(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Scheduler => "scheduler",
        }
    }
}

impl Direction {
    const ALL: [Self; 2] = [Self::In, Self::Out];

    const fn label(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

impl Dropped {
    const ALL: [Self; 8] = [
        Self::Scheduler(DropReason::Late),
        Self::Scheduler(DropReason::Full),
        Self::Scheduler(DropReason::NeedsKeyframe),
        Self::Scheduler(DropReason::Behind),
        Self::Scheduler(DropReason::Superseded),
        Self::Scheduler(DropReason::Thinned),
        Self::NoConnector,
        Self::Held,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Scheduler(DropReason::Late) => "late",
            Self::Scheduler(DropReason::Full) => "full",
            Self::Scheduler(DropReason::NeedsKeyframe) => "needs_keyframe",
            Self::Scheduler(DropReason::Behind) => "behind",
            Self::Scheduler(DropReason::Superseded) => "superseded",
            Self::Scheduler(DropReason::Thinned) => "thinned",
            Self::Scheduler(_) => "other",
            Self::NoConnector => "no_connector",
            Self::Held => "held",
        }
    }
}

impl Listener {
    const ALL: [Self; 4] = [Self::Rtmp, Self::Rtmps, Self::Tunnel, Self::Http];

    const fn label(self) -> &'static str {
        match self {
            Self::Rtmp => "rtmp",
            Self::Rtmps => "rtmps",
            Self::Tunnel => "tunnel",
            Self::Http => "http",
        }
    }
}

impl Resync {
    const ALL: [Self; 3] = [Self::Reconnect, Self::Accept, Self::Operator];

    const fn label(self) -> &'static str {
        match self {
            Self::Reconnect => "reconnect",
            Self::Accept => "accept",
            Self::Operator => "operator",
        }
    }
}

impl Refused {
    const ALL: [Self; 15] = [
        Self::UnknownKey,
        Self::Draining,
        Self::Full,
        Self::Protocol,
        Self::TooSlow,
        Self::UnknownConnector,
        Self::Token,
        Self::ByStudio,
        Self::TlsOnRtmp,
        Self::RtmpOnRtmps,
        Self::Rtmpe,
        Self::Http,
        Self::MpegTs,
        Self::Tls,
        Self::Proxy,
    ];

    /// The label's value, also for the log.
    pub const fn label(self) -> &'static str {
        match self {
            Self::UnknownKey => "unknown_key",
            Self::Draining => "draining",
            Self::Full => "full",
            Self::Protocol => "protocol",
            Self::TooSlow => "too_slow",
            Self::UnknownConnector => "unknown_connector",
            Self::Token => "token",
            Self::ByStudio => "by_studio",
            Self::TlsOnRtmp => "tls_on_rtmp",
            Self::RtmpOnRtmps => "rtmp_on_rtmps",
            Self::Rtmpe => "rtmpe",
            Self::Http => "http",
            Self::MpegTs => "mpeg_ts",
            Self::Tls => "tls",
            Self::Proxy => "proxy",
        }
    }
}

fn name(what: &str) -> String {
    format!("firstmile_relay_{what}")
}

fn histogram(
    registry: &Registry,
    what: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<HistogramVec> {
    let options = HistogramOpts::new(name(what), help).buckets(HOP_BUCKETS_S.to_vec());
    add(registry, HistogramVec::new(options, labels)?)
}

fn counters(
    registry: &Registry,
    what: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    add(
        registry,
        IntCounterVec::new(Opts::new(name(what), help), labels)?,
    )
}

fn gauges(
    registry: &Registry,
    what: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntGaugeVec> {
    add(
        registry,
        IntGaugeVec::new(Opts::new(name(what), help), labels)?,
    )
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn seconds(us: i64) -> f64 {
    std::time::Duration::from_micros(u64::try_from(us).unwrap_or(0)).as_secs_f64()
}

/// From a loopback's hop to what no studio delay forgives.
const HOP_BUCKETS_S: [f64; 14] = [
    0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contracts_names_are_there_once_they_were_counted() {
        let metrics = Metrics::new();
        metrics.observe_hop(Hop::Ingest, 40_000);
        metrics.observe_hop(Hop::Scheduler, -1);
        metrics.unit(Direction::In, 1_000);
        metrics.dropped(Dropped::Scheduler(DropReason::Late), 3);
        metrics.late();
        metrics.refused(Refused::UnknownKey);
        metrics.publishers("truck1", 1);
        let open = metrics.connection(Listener::Rtmp);
        let text = metrics.render();
        for line in [
            "firstmile_relay_hop_seconds_count{hop=\"ingest\"} 1",
            "firstmile_relay_hop_seconds_sum{hop=\"scheduler\"} 0",
            "firstmile_relay_units_total{direction=\"in\"} 1",
            "firstmile_relay_bytes_total{direction=\"in\"} 1000",
            "firstmile_relay_units_dropped_total{reason=\"late\"} 3",
            "firstmile_relay_units_late_total 1",
            "firstmile_relay_refusals_total{reason=\"unknown_key\"} 1",
            "firstmile_relay_publishers{studio=\"truck1\"} 1",
            "firstmile_relay_connections{listener=\"rtmp\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
        }
        drop(open);
        assert!(
            metrics
                .render()
                .contains("connections{listener=\"rtmp\"} 0")
        );
    }
}
