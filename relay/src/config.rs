//! The relay's configuration: every key, its default and the reason for it.
//!
//! Sources, later wins: these defaults, `firstmile-relay.toml`, the environment (`FIRSTMILE_RELAY__RTMP__LISTEN=…`).
//! Keys whose feature comes later are accepted already, so that one file serves several versions; unknown keys stop
//! the start and are named.

mod network;
mod size;

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use firstmile_shared::{
    config::{self, Listen, LogConfig, join_host_port, split_host_port},
    exit::Failure,
    quic::Congestion,
};
use serde::{Deserialize, Serialize};

use self::size::{KIB, MIB};
pub use self::{
    network::Network,
    size::{Bitrate, Size},
};

/// The program's name: of its state folder, its configuration file and in its messages.
pub const PROGRAM: &str = "firstmile-relay";

/// What environment variables begin with; see [`config::load`] for why it ends in two underscores.
pub const ENV_PREFIX: &str = "FIRSTMILE_RELAY__";

/// Everything `firstmile-relay` can be told.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where encoders connect.
    pub rtmp: RtmpConfig,
    /// Where encoders connect with TLS.
    pub rtmps: RtmpsConfig,
    /// Where connectors connect.
    pub tunnel: TunnelConfig,
    /// The public pages.
    pub https: HttpsConfig,
    /// The local pages, the API and the metrics.
    pub http: HttpConfig,
    /// How much is served at once.
    pub limits: LimitsConfig,
    /// The log.
    pub log: LogConfig,
}

impl Config {
    /// Reads the configuration: `file` is `--config`. The error names the key, its value and where it came from.
    pub fn load(file: Option<&Path>) -> Result<Self, Failure> {
        config::load(file, &config::default_file(PROGRAM), ENV_PREFIX)
    }

    /// What is asked for and not in this version: sentences for the log.
    pub fn not_served(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        if self.https.listen != Listen::Off {
            sentences.push(format!(
                "https.listen = \"{}\" takes connectors only: this version has no pages there",
                self.https.listen
            ));
        }
        sentences
    }
}

/// `rtmp.*`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RtmpConfig {
    /// Where encoders connect. Default `[::]:1935`: RTMP's registered port, the only one some encoders know.
    pub listen: Listen,
    /// Load balancers in front of RTMP and RTMPS, by address or network (`10.0.0.0/8`): each connection from there must
    /// begin with a PROXY protocol header, version 2, which says who the encoder is. Default: none. From elsewhere no
    /// such header is believed: anybody could write one.
    #[serde(deserialize_with = "config::list")]
    pub proxy_protocol_from: Vec<Network>,
}

impl Default for RtmpConfig {
    fn default() -> Self {
        Self {
            listen: Listen::at("::", 1935),
            proxy_protocol_from: Vec::new(),
        }
    }
}

/// `rtmps.*`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RtmpsConfig {
    /// Where encoders connect with TLS. Default `[::]:1936`: next to RTMP's. When that default can't be listened on,
    /// the relay goes on without RTMPS and says so; an address of the operator's own has to work.
    pub listen: Listen,
    /// A PEM file with the certificate and, behind it, those that lead to the authority. It is read again when it
    /// changes. Default: none; the relay makes a certificate of its own, which encoders take only without verification.
    #[serde(deserialize_with = "config::optional", serialize_with = "path")]
    pub certificate: Option<PathBuf>,
    /// A PEM file with the certificate's private key; may be the same file. Likewise read again.
    #[serde(deserialize_with = "config::optional", serialize_with = "path")]
    pub key: Option<PathBuf>,
}

impl Default for RtmpsConfig {
    fn default() -> Self {
        Self {
            listen: Listen::at("::", 1936),
            certificate: None,
            key: None,
        }
    }
}

impl RtmpsConfig {
    /// Whether the operator did not choose the address: then nothing depends on it.
    pub fn is_default_listener(&self) -> bool {
        self.listen == Self::default().listen
    }

    /// The operator's own certificate, and its key; `None` when there is none.
    pub fn certificate_and_key(&self) -> Result<Option<(&Path, &Path)>, Failure> {
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            (None, None) => Ok(None),
            (Some(_), None) => Err(Failure::config(
                "rtmps.certificate is set and rtmps.key is not: name the file with its private key too (it may be the same file)",
            )),
            (None, Some(_)) => Err(Failure::config(
                "rtmps.key is set and rtmps.certificate is not: name the file with the certificate too (it may be the same file)",
            )),
        }
    }
}

/// `tunnel.*`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TunnelConfig {
    /// Where connectors connect, UDP, and TCP with `tcp`. Default `[::]:4433`.
    pub listen: Listen,
    /// Whether connectors whom UDP does not reach may come over TCP, on the same port. Default `true`.
    #[serde(deserialize_with = "config::text")]
    pub tcp: bool,
    /// Where connectors and encoders find this relay from outside, `HOST[:PORT]`, best first. The port is the
    /// tunnel's; the host is in encoders' URLs too. Default: the machine's own public address, if it has one.
    #[serde(deserialize_with = "config::list")]
    pub public_address: Vec<PublicAddress>,
    /// How the relay finds out what the network to a studio takes: `bbr`, `bounded`, `cubic` or `newreno`. Default `bbr`: the
    /// others take random loss for congestion, and mobile networks lose at random.
    #[serde(deserialize_with = "config::text", serialize_with = "shown")]
    pub congestion: Congestion,
}

impl Default for TunnelConfig {
    fn default() -> Self {
        Self {
            listen: Listen::at("::", 4433),
            tcp: true,
            public_address: Vec::new(),
            congestion: Congestion::default(),
        }
    }
}

/// `https.*`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpsConfig {
    /// The one public TLS listener, for `[::]:443`. Default `off`. This version takes connectors there whose network lets
    /// out neither UDP nor the tunnel's port; join tokens made from then on name the port.
    pub listen: Listen,
}

impl Default for HttpsConfig {
    fn default() -> Self {
        Self {
            listen: Listen::Off,
        }
    }
}

/// `http.*`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Where the API, the metrics and the health checks are. Default `127.0.0.1:8080`: this machine only, there is
    /// no login.
    pub listen: Listen,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: Listen::at("127.0.0.1", 8080),
        }
    }
}

/// `limits.*`: what is served at once. At a limit newcomers wait or are refused; nobody who is live is cut off.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Encoders that publish or are held. Default 256: at 6 Mbit/s each that is 1.5 Gbit/s in, more than the network
    /// of a small server.
    #[serde(deserialize_with = "config::text")]
    pub publishers: Count,
    /// Of them, of one studio. Default 64: four times the largest outside broadcast we know of.
    #[serde(deserialize_with = "config::text")]
    pub publishers_per_studio: Count,
    /// Encoders' TCP connections, also those that have not shown a key yet. Default 1024: each costs at most 80 KiB
    /// before its key is known.
    #[serde(deserialize_with = "config::text")]
    pub rtmp_connections: Count,
    /// Of them, from one address. Default 64: a crew behind one NAT, with all its ghosts.
    #[serde(deserialize_with = "config::text")]
    pub rtmp_connections_per_address: Count,
    /// How long an encoder may take to show a key. Default 10 s: three round trips of the worst mobile network.
    #[serde(deserialize_with = "config::text")]
    pub handshake_timeout: Span,
    /// Silence of an encoder's network (no acknowledgements, no answers to probes) after which it is given up.
    /// Default 10 s: longer than a cellular handover, shorter than a producer's patience. An encoder that is there
    /// and pauses is not cut off.
    #[serde(deserialize_with = "config::text")]
    pub idle_timeout: Span,
    /// What an encoder may send before its key is accepted, and so the most that it can make the relay keep; no message
    /// may be larger. Default 32 KiB: a handshake is 3 KiB, all commands together take less than one; with what a
    /// connection costs besides, a stranger then takes less than 64 KiB of memory.
    #[serde(deserialize_with = "config::text")]
    pub unauthenticated_bytes: UnauthenticatedSize,
    /// The largest message of an encoder that publishes. Default 8 MiB: sixteen times a 4K intra picture at 100 Mbit/s.
    #[serde(deserialize_with = "config::text")]
    pub message_bytes: MessageSize,
    /// What one publisher may send, as an average of a second. Default 200 Mbit/s: twice what a 4K camera sends, and
    /// not all of a server's network. One that sends more is not cut off: it is read no faster, and falls behind.
    #[serde(deserialize_with = "config::text")]
    pub publisher_bitrate: Bitrate,
    /// After which time a wrong key is answered. Default 1 s: guessing is hopeless, and a typing error is told while the
    /// person looks.
    #[serde(deserialize_with = "config::text")]
    pub wrong_key_delay: Span,
    /// After which time at most, when an address goes on sending wrong keys: from the sixth within a minute on, each
    /// five add `wrong_key_delay`. Default 5 s: OBS gives up on an answer after some. The right key never waits.
    #[serde(deserialize_with = "config::text")]
    pub wrong_key_delay_max: Span,
    /// Connected connectors. Default 256.
    #[serde(deserialize_with = "config::text")]
    pub connectors: Count,
    /// Of them, of one studio. Default 16: main, spare and a few remote sites.
    #[serde(deserialize_with = "config::text")]
    pub connectors_per_studio: Count,
    /// Connections to `http.listen`. Default 64: a few open pages and a scraper.
    #[serde(deserialize_with = "config::text")]
    pub http_connections: Count,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            publishers: Count(256),
            publishers_per_studio: Count(64),
            rtmp_connections: Count(1024),
            rtmp_connections_per_address: Count(64),
            handshake_timeout: Span(Duration::from_secs(10)),
            idle_timeout: Span(Duration::from_secs(10)),
            unauthenticated_bytes: UnauthenticatedSize::of(32 * KIB),
            message_bytes: MessageSize::of(8 * MIB),
            publisher_bitrate: Bitrate::mbit(200),
            wrong_key_delay: Span(Duration::from_secs(1)),
            wrong_key_delay_max: Span(Duration::from_secs(5)),
            connectors: Count(256),
            connectors_per_studio: Count(16),
            http_connections: Count(64),
        }
    }
}

/// Less than a handshake and a long `connect` lets nobody in; with more, strangers could fill a small server.
pub type UnauthenticatedSize = Size<{ 8 * KIB }, { MIB }>;

/// The tunnel carries no larger units.
pub type MessageSize = Size<{ 64 * KIB }, { 8 * MIB }>;

/// A number of things: 1 to 65 536. Parsed, not validated: a `Count` in hand is in range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Count(u32);

impl Count {
    /// As a size.
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

impl FromStr for Count {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim().parse() {
            Ok(count @ 1..=65_536) => Ok(Self(count)),
            _ => Err("a limit is a number from 1 to 65536"),
        }
    }
}

/// A length of time: `500ms`, `10s`, `5m`, `24h`, `30d`; a number alone is seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit_ms = match unit.trim() {
            "ms" => 1,
            "" | "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 24 * 3_600_000,
            _ => return Err(SPAN_FORM),
        };
        let number: u64 = number.parse().map_err(|_| SPAN_FORM)?;
        match number.checked_mul(unit_ms) {
            Some(ms @ 1..=SPAN_MS_MAX) => Ok(Self(Duration::from_millis(ms))),
            _ => Err("a time is more than nothing and at most ten years"),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        for (unit_ms, unit) in [
            (24 * 3_600_000, "d"),
            (3_600_000, "h"),
            (60_000, "m"),
            (1_000, "s"),
        ] {
            if ms.is_multiple_of(unit_ms) {
                return write!(f, "{}{unit}", ms / unit_ms);
            }
        }
        write!(f, "{ms}ms")
    }
}

impl Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where the relay is found from outside: `HOST`, `HOST:PORT`, `[V6]:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct PublicAddress {
    /// A name or an address, without brackets.
    pub host: String,
    /// The tunnel's port as seen from outside; `None`: the one that is listened on.
    pub port: Option<u16>,
}

impl FromStr for PublicAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match split_host_port(text)? {
            (_, Some(0)) => Err("port 0 is no address".to_owned()),
            (host, port) => Ok(Self { host, port }),
        }
    }
}

impl fmt::Display for PublicAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => f.write_str(&join_host_port(&self.host, port)),
            None => f.write_str(&self.host),
        }
    }
}

impl From<PublicAddress> for String {
    fn from(address: PublicAddress) -> Self {
        address.to_string()
    }
}

fn shown<S: serde::Serializer>(
    value: &impl fmt::Display,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Empty where there is none: so it can be read in again.
#[expect(clippy::ref_option, reason = "serde's signature")]
fn path<S: serde::Serializer>(value: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(path) => serializer.collect_str(&path.display()),
        None => serializer.serialize_str(""),
    }
}

const SPAN_FORM: &str = "a time is a number with ms, s, m, h or d, like 10s or 24h";

const SPAN_MS_MAX: u64 = 3_660 * 24 * 3_600_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(toml: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("relay.toml");
        std::fs::write(&file, toml).unwrap();
        Config::load(Some(&file)).map_err(|failure| failure.message)
    }

    #[test]
    fn an_empty_file_is_the_contracts_defaults() {
        let config = parse("").unwrap();
        assert_eq!(config, Config::default());
        let listeners = [
            (&config.rtmp.listen, "[::]:1935"),
            (&config.rtmps.listen, "[::]:1936"),
            (&config.tunnel.listen, "[::]:4433"),
            (&config.https.listen, "off"),
            (&config.http.listen, "127.0.0.1:8080"),
        ];
        for (listen, expected) in listeners {
            assert_eq!(listen.to_string(), expected);
        }
        assert_eq!(config.not_served(), [""; 0]);
    }

    #[test]
    fn every_key_is_accepted() {
        let config = parse(
            r#"
            [rtmp]
            listen = "0.0.0.0:11935"
            proxy_protocol_from = ["10.0.0.0/8", "2001:db8::7"]
            [rtmps]
            listen = "off"
            certificate = "/etc/firstmile/relay.crt"
            key = "/etc/firstmile/relay.key"
            [tunnel]
            listen = "127.0.0.1:0"
            tcp = "false"
            public_address = ["relay.example", "[2001:db8::1]:5000"]
            congestion = "cubic"
            [https]
            listen = "[::]:443"
            [http]
            listen = "off"
            [limits]
            publishers = 8
            publishers_per_studio = "4"
            rtmp_connections = 100
            rtmp_connections_per_address = 10
            handshake_timeout = "5s"
            idle_timeout = "1m"
            unauthenticated_bytes = "48KiB"
            message_bytes = "1MiB"
            publisher_bitrate = "20Mbit/s"
            wrong_key_delay = "2s"
            wrong_key_delay_max = "4s"
            connectors = 3
            connectors_per_studio = 2
            http_connections = 5
            [log]
            format = "json"
            level = "debug"
            "#,
        )
        .unwrap();
        assert_eq!(config.limits.publishers_per_studio.get(), 4);
        assert_eq!(config.limits.idle_timeout.to_string(), "1m");
        assert_eq!(config.limits.unauthenticated_bytes.get(), 48 * 1024);
        assert_eq!(config.limits.publisher_bitrate.to_string(), "20Mbit/s");
        assert_eq!(config.rtmp.proxy_protocol_from.len(), 2);
        assert!(config.rtmps.certificate_and_key().unwrap().is_some());
        let addresses: Vec<_> = config
            .tunnel
            .public_address
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(addresses, ["relay.example", "[2001:db8::1]:5000"]);
        let not_served = config.not_served();
        assert!(
            not_served.len() == 1 && not_served[0].contains("https.listen = \"[::]:443\""),
            "{not_served:?}"
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_key_and_value() {
        // (file, what the error says)
        for (toml, parts) in [
            ("[rtmp]\nlissten = 1", &["rtmp.lissten", "listen"][..]),
            ("[rtmpx]\n", &["rtmpx"]),
            (
                "[rtmp]\nlisten = \"1935\"",
                &["rtmp.listen", "\"1935\"", "the port is missing"],
            ),
            (
                "[limits]\npublishers = 0",
                &["limits.publishers", "\"0\"", "from 1 to 65536"],
            ),
            (
                "[limits]\nidle_timeout = \"soon\"",
                &["limits.idle_timeout", "\"soon\"", "like 10s"],
            ),
            (
                "[limits]\nmessage_bytes = \"9MiB\"",
                &["limits.message_bytes", "\"9MiB\"", "64KiB to 8MiB"],
            ),
            (
                "[limits]\npublisher_bitrate = \"fast\"",
                &["limits.publisher_bitrate", "\"fast\"", "like 50Mbit/s"],
            ),
            (
                "[rtmp]\nproxy_protocol_from = \"lb.example\"",
                &["rtmp.proxy_protocol_from", "lb.example", "10.0.0.0/8"],
            ),
            (
                "[tunnel]\npublic_address = \"rtmp://x\"",
                &["tunnel.public_address", "rtmp://x"],
            ),
            (
                "[tunnel]\ncongestion = \"reno\"",
                &["tunnel.congestion", "reno", "bbr, bounded, cubic, newreno"],
            ),
            (
                "[log]\nformat = \"xml\"",
                &["log.format", "xml", "auto, text or json"],
            ),
        ] {
            let error = parse(toml).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{toml:?}: no {part:?} in {error:?}");
            }
        }
    }

    #[test]
    fn one_public_address_needs_no_brackets() {
        for (toml, expected) in [
            ("public_address = \"relay.example\"", "relay.example"),
            ("public_address = \"[::1]\"", "::1"),
            ("public_address = \"[::1]:443\"", "[::1]:443"),
        ] {
            let config = parse(&format!("[tunnel]\n{toml}")).unwrap();
            assert_eq!(config.tunnel.public_address[0].to_string(), expected);
        }
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, ms) in [
            ("250ms", 250),
            ("10s", 10_000),
            ("10", 10_000),
            (" 5m ", 300_000),
            ("24h", 86_400_000),
            ("30d", 2_592_000_000),
        ] {
            assert_eq!(
                text.parse(),
                Ok(Span(Duration::from_millis(ms))),
                "{text:?}"
            );
        }
        for text in ["", "0", "h", "-1s", "1w", "1.5h", "99999999999999999d"] {
            assert!(text.parse::<Span>().is_err(), "{text:?}");
        }
        assert_eq!(Span(Duration::from_hours(24)).to_string(), "1d");
    }
}
