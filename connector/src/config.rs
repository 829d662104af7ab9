//! The connector's configuration: every key, its default and the reason for it.
//!
//! Sources, later wins: these defaults, `firstmile-connector.toml`, the environment
//! (`FIRSTMILE_CONNECTOR__HTTP__LISTEN=…`). Keys whose feature comes later are accepted already, so that one file
//! serves several versions; unknown keys stop the start and are named. Lines are not configured here but in
//! `STATE/lines.toml`.

use std::{
    num::NonZeroU16,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use firstmile_shared::{
    config::{self, Listen, LogConfig},
    exit::Failure,
    quic::{Congestion, Transport},
    tunnel::control::ShowFormat,
};
use serde::Deserialize;

use crate::{
    decode::{self, Decoders},
    lines::{Delay, settings::Format},
    output::OutputKind,
    playout::Slate,
    tunnel,
};

/// The program's name: of its state folder, its configuration file and in its messages.
pub const PROGRAM: &str = "firstmile-connector";

/// What environment variables begin with; see [`config::load`] for why it ends in two underscores.
pub const ENV_PREFIX: &str = "FIRSTMILE_CONNECTOR__";

/// Everything `firstmile-connector` can be told.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The page, the API and the metrics.
    pub http: HttpConfig,
    /// Where lines go.
    pub output: OutputConfig,
    /// How NDI® sources appear on the network.
    pub ndi: NdiConfig,
    /// How feeds become pictures.
    pub decoder: DecoderConfig,
    /// The studio delay: `fast`, `normal`, `safe`, `rough` (300, 600, 1500, 3000 ms), or milliseconds. Default
    /// `normal`: what LTE in town needs.
    #[serde(deserialize_with = "config::text")]
    pub delay: StudioDelay,
    /// What lines show while they have no picture: `clean`, `diagnostic`, `black`, or the absolute path of a PNG or JPEG.
    /// Default `clean`: nothing that surprises on program.
    #[serde(deserialize_with = "config::text")]
    pub slate: StudioSlate,
    /// What all feeds of the show should be like: `1080p25`, `1080i50`, `1280x720p59.94`, or `auto`. What an encoder
    /// sends instead is named on the page. Default `auto`: nothing is compared.
    #[serde(deserialize_with = "config::text")]
    pub show_format: StudioFormat,
    /// The connections to relays.
    pub tunnel: TunnelConfig,
    /// For measurements and support.
    pub diagnostics: DiagnosticsConfig,
    /// The log.
    pub log: LogConfig,
}

impl Config {
    /// Reads the configuration: `file` is `--config`. The error names the key, its value and where it came from.
    pub fn load(file: Option<&Path>) -> Result<Self, Failure> {
        config::load(file, &config::default_file(PROGRAM), ENV_PREFIX)
    }

    /// What all NDI sources share, for the output.
    pub fn ndi_settings(&self) -> crate::output::NdiSettings {
        crate::output::NdiSettings {
            groups: (!self.ndi.groups.is_empty()).then(|| self.ndi.groups.join(",")),
        }
    }

    /// What makes the lines' decoders. In processes of their own it is this very program that they run: its `main`
    /// hands over to [`decode::process::main`].
    pub fn decoders(&self) -> Decoders {
        let max_pixels = self.decoder.max_pixels.0;
        match self.decoder.isolation {
            Isolation::Process => {
                Decoders::in_processes(decode::process::this_program(PROGRAM), max_pixels)
            }
            Isolation::Thread => Decoders::in_threads(max_pixels),
        }
    }

    /// What all connections to relays share.
    pub fn tunnels(&self) -> tunnel::Settings {
        tunnel::Settings {
            transport: Transport {
                congestion: self.tunnel.congestion,
                segmentation_offload: self.tunnel.segmentation_offload,
            },
            probe_every: Duration::from_secs(self.tunnel.probe_seconds.get().into()),
        }
    }

    /// What is asked for and not in this version: sentences for the log.
    pub fn not_served(&self) -> Vec<String> {
        let ndi = &self.ndi;
        [
            (
                "ndi.runtime_dir",
                ndi.runtime_dir.is_some(),
                "set NDI_RUNTIME_DIR_V6 instead",
            ),
            (
                "ndi.discovery",
                !ndi.discovery.is_empty(),
                "set it in NDI's own ndi-config.v1.json",
            ),
            (
                "ndi.adapters",
                !ndi.adapters.is_empty(),
                "set it in NDI's own ndi-config.v1.json",
            ),
            (
                "ndi.machine_name",
                ndi.machine_name.is_some(),
                "set it in NDI's own ndi-config.v1.json",
            ),
        ]
        .into_iter()
        .filter(|(_, is_set, _)| *is_set)
        .map(|(key, _, instead)| format!("{key} has no effect in this version; {instead}"))
        .collect()
    }
}

/// `http.*`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Where the page is. Default `127.0.0.1:8090`: this machine only, because the page shows stream keys to
    /// whoever opens it.
    pub listen: Listen,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: Listen::at("127.0.0.1", 8090),
        }
    }
}

/// `output.*`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutputConfig {
    /// `ndi`, or `null`: count and show nothing. Default `ndi`.
    #[serde(deserialize_with = "config::text")]
    pub default: OutputDefault,
}

/// `ndi.*`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NdiConfig {
    /// Where the NDI runtime is, looked into first. Default: `NDI_RUNTIME_DIR_V6` and the system's places.
    #[serde(deserialize_with = "config::optional")]
    pub runtime_dir: Option<PathBuf>,
    /// Groups the sources belong to. Default: the public group.
    #[serde(deserialize_with = "config::list")]
    pub groups: Vec<String>,
    /// Discovery servers, `HOST` or `HOST:PORT`. Default: none, sources are found by mDNS.
    #[serde(deserialize_with = "config::list")]
    pub discovery: Vec<String>,
    /// Addresses of the network cards that may be used. Default: all.
    #[serde(deserialize_with = "config::list")]
    pub adapters: Vec<String>,
    /// What stands before the brackets of a source's name. Default: the machine's name.
    #[serde(deserialize_with = "config::optional")]
    pub machine_name: Option<String>,
}

/// `decoder.*`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecoderConfig {
    /// Where FFmpeg reads what strangers send: `process`, one for each line, which may crash without touching any
    /// other source; or `thread`, in this program. Default `process`: it costs 2.7 % of a core more for a line of 1080p60
    /// (BENCHMARKS.md). Where the system can't, it is `thread`.
    #[serde(deserialize_with = "config::text")]
    pub isolation: Isolation,
    /// The largest picture that is decoded, as it is coded, in pixels: `9437184` or `4096x2304`. Default 4096x2304, the
    /// largest that a phone or camera sends. A decoder takes about 20 such pictures of memory.
    #[serde(deserialize_with = "config::text")]
    pub max_pixels: MaxPixels,
}

/// Where a line's decoder runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// In a process of its own.
    #[default]
    Process,
    /// In the line's thread.
    Thread,
}

impl FromStr for Isolation {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "process" => Ok(Self::Process),
            "thread" => Ok(Self::Thread),
            _ => Err("a decoder runs in a process or a thread"),
        }
    }
}

/// Pixels of a picture, 256 to 8192x8192.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPixels(pub u32);

impl Default for MaxPixels {
    fn default() -> Self {
        Self(decode::PIXELS_MAX)
    }
}

impl FromStr for MaxPixels {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.trim().parse::<u32>().ok();
        let pixels = match text.split_once('x') {
            Some((width, height)) => number(width)
                .zip(number(height))
                .and_then(|(width, height)| width.checked_mul(height)),
            None => number(text),
        };
        pixels
            .filter(|pixels| (256..=8192 * 8192).contains(pixels))
            .map(Self)
            .ok_or("the most pixels are a number, or WIDTHxHEIGHT, of 256 to 67108864 (8192x8192)")
    }
}

/// `tunnel.*`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TunnelConfig {
    /// The congestion control of what the connector sends: `bbr`, `bounded`, `cubic` or `newreno`. Default `bbr`, which holds
    /// its rate through the random loss of mobile links.
    #[serde(deserialize_with = "config::text")]
    pub congestion: Congestion,
    /// Whether the kernel may cut large sends into packets. Default `true`; some network drivers claim it and can't.
    #[serde(deserialize_with = "config::text")]
    pub segmentation_offload: bool,
    /// How often UDP is tried again while a tunnel goes over TCP, seconds. Default 60.
    #[serde(deserialize_with = "config::text")]
    pub probe_seconds: NonZeroU16,
}

impl Default for TunnelConfig {
    fn default() -> Self {
        let transport = Transport::default();
        Self {
            congestion: transport.congestion,
            segmentation_offload: transport.segmentation_offload,
            probe_seconds: NonZeroU16::new(60).unwrap_or(NonZeroU16::MIN),
        }
    }
}

/// `diagnostics.*`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiagnosticsConfig {
    /// A file that gets a line of CSV for each unit that arrives: when it came, how old it was; see
    /// [`crate::unit_log`]. It is made anew at each start and grows by some 40 MB an hour for each line. Default: none.
    #[serde(deserialize_with = "config::optional")]
    pub units: Option<PathBuf>,
}

/// Where a line goes that was not told otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputDefault {
    /// An NDI source.
    #[default]
    Ndi,
    /// Nowhere; counted.
    Null,
}

impl FromStr for OutputDefault {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "ndi" => Ok(Self::Ndi),
            "null" => Ok(Self::Null),
            _ => Err("the output is ndi or null"),
        }
    }
}

impl From<OutputDefault> for OutputKind {
    fn from(default: OutputDefault) -> Self {
        match default {
            OutputDefault::Ndi => Self::Ndi,
            OutputDefault::Null => Self::Null,
        }
    }
}

/// `delay` as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StudioDelay(pub Delay);

impl Default for StudioDelay {
    fn default() -> Self {
        Self(Delay::Normal)
    }
}

impl FromStr for StudioDelay {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Delay::parse(text)
            .map(Self)
            .ok_or("the delay is fast, normal, safe, rough, or 0 to 30000 milliseconds")
    }
}

/// `slate` as it was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StudioSlate(pub Slate);

impl FromStr for StudioSlate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Slate::parse(text.trim())
            .map(Self)
            .ok_or("the slate is clean, diagnostic, black, or the absolute path of a PNG or JPEG")
    }
}

/// `show_format` as it was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StudioFormat(pub Option<ShowFormat>);

impl FromStr for StudioFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let format = Format::parse(text.trim()).ok_or(
            "the show format is auto, or a size and a rate like 1080p25, 1080i50 or 1280x720p59.94",
        )?;
        Ok(Self(format.show()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(toml: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("connector.toml");
        std::fs::write(&file, toml).unwrap();
        Config::load(Some(&file)).map_err(|failure| failure.message)
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        let config = parse("").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(config.http.listen.to_string(), "127.0.0.1:8090");
        assert_eq!(config.delay.0.ms(), 600);
        assert_eq!(config.output.default, OutputDefault::Ndi);
        assert_eq!(config.decoder.max_pixels.0, 4096 * 2304);
    }

    #[test]
    fn every_key_is_accepted() {
        let config = parse(
            r#"
            delay = 100
            slate = "/media/card.png"
            show_format = "1080p29.97"
            [http]
            listen = "[::]:0"
            [output]
            default = "null"
            [ndi]
            runtime_dir = "/opt/ndi"
            groups = ["truck", "public"]
            discovery = "10.0.0.5"
            adapters = ["10.0.0.9"]
            machine_name = 2026
            [decoder]
            isolation = "thread"
            max_pixels = "1920x1088"
            [tunnel]
            congestion = "cubic"
            segmentation_offload = false
            [diagnostics]
            units = "/tmp/units.csv"
            [log]
            format = "json"
            level = "debug"
            "#,
        )
        .unwrap();
        assert_eq!(config.delay.0.ms(), 100);
        assert_eq!(config.slate.0, Slate::File("/media/card.png".to_owned()));
        assert_eq!(
            config.show_format.0.map(|show| (show.height, show.rate)),
            Some((1080, (30_000, 1001)))
        );
        assert_eq!(OutputKind::from(config.output.default), OutputKind::Null);
        assert_eq!(
            config.ndi_settings().groups.as_deref(),
            Some("truck,public")
        );
        assert_eq!(config.ndi.machine_name.as_deref(), Some("2026"));
        assert_eq!(config.tunnels().transport.congestion, Congestion::Cubic);
        assert_eq!(
            config.diagnostics.units.as_deref(),
            Some(Path::new("/tmp/units.csv"))
        );
        assert_eq!(config.decoder.isolation, Isolation::Thread);
        assert_eq!(config.decoder.max_pixels, MaxPixels(1920 * 1088));
        assert_eq!(config.not_served().len(), 4, "{:?}", config.not_served());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value_and_its_place() {
        for (toml, parts) in [
            (
                "[http]\nlissten = 'off'\n",
                vec!["http.lissten: unknown setting", "listen", "connector.toml"],
            ),
            (
                "delay = 'slow'\n",
                vec![
                    "delay: \"slow\"",
                    "fast, normal, safe, rough",
                    "connector.toml",
                ],
            ),
            (
                "[output]\ndefault = 'sdi'\n",
                vec!["output.default: \"sdi\"", "ndi or null"],
            ),
            (
                "[decoder]\nisolation = 'container'\n",
                vec!["decoder.isolation: \"container\"", "a process or a thread"],
            ),
            (
                "[decoder]\nmax_pixels = '99999x99999'\n",
                vec!["decoder.max_pixels: \"99999x99999\"", "8192x8192"],
            ),
            (
                "slate = 'card.png'\n",
                vec!["slate: \"card.png\"", "absolute path", "connector.toml"],
            ),
            (
                "show_format = '1080p26'\n",
                vec!["show_format: \"1080p26\"", "like 1080p25"],
            ),
            ("[relay]\n", vec!["relay: unknown setting"]),
        ] {
            let error = parse(toml).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{part:?} is not in {error:?}");
            }
        }
    }
}
