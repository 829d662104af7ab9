//! The connector's configuration: every key, its default and the reason for it.
//!
//! Sources, later wins: these defaults, `firstmile-connector.toml`, the environment
//! (`FIRSTMILE_CONNECTOR__HTTP__LISTEN=…`). Keys whose feature comes later are accepted already, so that one file
//! serves several versions; unknown keys stop the start and are named. Lines are not configured here but in
//! `STATE/lines.toml`.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use firstmile_shared::{
    config::{self, Listen, LogConfig},
    exit::Failure,
};
use serde::{Deserialize, Serialize, Serializer};

use crate::{lines::Delay, output::OutputKind};

/// The program's name: of its state folder, its configuration file and in its messages.
pub const PROGRAM: &str = "firstmile-connector";

/// What environment variables begin with; see [`config::load`] for why it ends in two underscores.
pub const ENV_PREFIX: &str = "FIRSTMILE_CONNECTOR__";

/// Everything `firstmile-connector` can be told.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The page, the API and the metrics.
    pub http: HttpConfig,
    /// Where lines go.
    pub output: OutputConfig,
    /// How NDI® sources appear on the network.
    pub ndi: NdiConfig,
    /// The studio delay: `fast`, `normal`, `safe`, `rough` (300, 600, 1500, 3000 ms), or milliseconds. Default
    /// `normal`: what LTE in town needs.
    #[serde(deserialize_with = "config::text")]
    pub delay: StudioDelay,
    /// The connections to relays.
    pub tunnel: TunnelConfig,
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
}

/// `http.*`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutputConfig {
    /// `ndi`, or `null`: count and show nothing. Default `ndi`.
    #[serde(deserialize_with = "config::text")]
    pub default: OutputDefault,
}

/// `ndi.*`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
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

/// `tunnel.*`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TunnelConfig {
    /// The congestion control of what the connector sends. Default: the program's choice.
    #[serde(deserialize_with = "config::optional")]
    pub congestion: Option<String>,
}

/// Where a line goes that was not told otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
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

impl Serialize for StudioDelay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
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
    }

    #[test]
    fn every_key_is_accepted() {
        let config = parse(
            r#"
            delay = 100
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
            [tunnel]
            congestion = "bbr"
            [log]
            format = "json"
            level = "debug"
            "#,
        )
        .unwrap();
        assert_eq!(config.delay.0.ms(), 100);
        assert_eq!(OutputKind::from(config.output.default), OutputKind::Null);
        assert_eq!(
            config.ndi_settings().groups.as_deref(),
            Some("truck,public")
        );
        assert_eq!(config.ndi.machine_name.as_deref(), Some("2026"));
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
            ("[relay]\n", vec!["relay: unknown setting"]),
        ] {
            let error = parse(toml).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{part:?} is not in {error:?}");
            }
        }
    }
}
