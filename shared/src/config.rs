//! Configuration: where values come from, and errors that name them.
//!
//! Sources, later wins: the defaults of the `Config` struct, one TOML file, the environment
//! (`FIRSTMILE_RELAY__RTMP__LISTEN=…`). Environment values are text: [`TextEnv`] does not guess types, so each
//! field that is not a `String` reads itself with [`text`] (or [`list`]) and `STATE_DIR=2026` stays a name.
//! Unknown keys stop the start; every error names the key, the value and its source.

use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    str::FromStr,
};

use figment::{
    Figment, Metadata, Profile, Provider,
    error::Actual,
    providers::{Format, Toml},
    value::{Dict, Map, Value},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error as _, SeqAccess, Visitor},
};

use crate::exit::Failure;

/// Reads a configuration.
///
/// `file` is the operator's `--config`: it must exist. Without it, `default_file` is read if it is there.
/// `env_prefix` ends in two underscores: beside a Kubernetes service called `relay`, every pod gets a
/// `RELAY_PORT`, which a single underscore would take for a setting.
pub fn load<C: DeserializeOwned>(
    file: Option<&Path>,
    default_file: &Path,
    env_prefix: &'static str,
) -> Result<C, Failure> {
    let mut figment = Figment::new();
    match file {
        Some(file) => {
            let remedy = "from --config: correct the path, or let this user read it";
            figment = figment.merge(TomlFile::read(file, remedy)?);
        }
        None if default_file.exists() => {
            let remedy = "let this user read it, or give another by --config";
            figment = figment.merge(TomlFile::read(default_file, remedy)?);
        }
        None => {}
    }
    figment
        .merge(TextEnv::new(env_prefix, std::env::vars_os()))
        .extract()
        .map_err(|error| Failure::config(describe(error, env_prefix)))
}

/// Variables that look like settings and are none, for want of the second underscore: a sentence for each.
///
/// They do not stop a start: beside a Kubernetes service that is called like the program they are no one's mistake.
pub fn strays(
    env_prefix: &str,
    all: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
) -> Vec<String> {
    let stem = env_prefix.trim_end_matches('_');
    let mut names: Vec<String> = all
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| {
            let rest = name
                .strip_prefix(stem)
                .and_then(|rest| rest.strip_prefix('_'));
            rest.is_some_and(|rest| !rest.starts_with('_') && !is_of_kubernetes(rest))
        })
        .collect();
    names.sort_unstable();
    (names.iter())
        .map(|name| {
            format!(
                "the environment variable {name} is no setting and has no effect: two underscores follow {stem}, \
                 and stand between the parts of a setting's name"
            )
        })
        .collect()
}

/// `PORT`, `PORT_1935_TCP_ADDR`, `SERVICE_HOST`, `RTMP_SERVICE_PORT`: what a pod is told of services.
fn is_of_kubernetes(rest: &str) -> bool {
    let parts: Vec<&str> = rest.split('_').collect();
    let is_service = (parts.windows(2)).any(|two| matches!(two, ["SERVICE", "HOST" | "PORT"]));
    let is_port = parts.iter().enumerate().any(|(at, part)| {
        let next = parts.get(at + 1);
        *part == "PORT" && next.is_none_or(|next| next.parse::<u16>().is_ok())
    });
    is_service || is_port
}

/// A file that was read once, as a whole: a pipe (`--config <(…)`) can't be read again, a device never ends.
#[derive(Debug)]
struct TomlFile {
    path: PathBuf,
    text: String,
}

impl TomlFile {
    /// Figment's own words for a file that can't be read name no remedy.
    fn read(path: &Path, remedy: &str) -> Result<Self, Failure> {
        let fail = |what: &dyn fmt::Display| {
            Failure::config(format!(
                "configuration file {}: {what} ({remedy})",
                path.display()
            ))
        };
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(FILE_LEN_MAX + 1).read_to_string(&mut text))
            .map_err(|error| fail(&error))?;
        if text.len() as u64 > FILE_LEN_MAX {
            return Err(fail(&format_args!("it has more than {FILE_LEN_MAX} bytes")));
        }
        Ok(Self {
            path: path.to_owned(),
            text,
        })
    }
}

impl Provider for TomlFile {
    fn metadata(&self) -> Metadata {
        Metadata::from("TOML file", self.path.as_path())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Toml::string(&self.text).data()
    }
}

/// The environment as a configuration source whose every value is text.
#[derive(Debug)]
pub struct TextEnv {
    prefix: &'static str,
    variables: Vec<(String, String)>,
}

impl TextEnv {
    /// The variables that begin with `prefix`; `__` separates the parts of a key.
    pub fn new(
        prefix: &'static str,
        all: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    ) -> Self {
        let variables = all
            .filter_map(|(name, value)| {
                let key = name
                    .to_str()?
                    .strip_prefix(prefix)?
                    .to_ascii_lowercase()
                    .replace("__", ".");
                Some((key, value.to_string_lossy().into_owned()))
            })
            .collect();
        Self { prefix, variables }
    }
}

impl Provider for TextEnv {
    fn metadata(&self) -> Metadata {
        let prefix = self.prefix;
        Metadata::named("environment").interpolater(move |_, keys| variable(prefix, keys))
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let mut dict = Dict::new();
        for (key, value) in &self.variables {
            insert(&mut dict, key, value);
        }
        Ok(Map::from([(Profile::Default, dict)]))
    }
}

fn insert(dict: &mut Dict, key: &str, value: &str) {
    match key.split_once('.') {
        None => drop(dict.insert(key.to_owned(), Value::from(value))),
        Some((section, rest)) => {
            let entry = dict
                .entry(section.to_owned())
                .or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, inner) = entry {
                insert(inner, rest, value);
            } else {
                let mut inner = Dict::new();
                insert(&mut inner, rest, value);
                *entry = Value::from(inner);
            }
        }
    }
}

fn variable(prefix: &str, keys: &[&str]) -> String {
    format!("{prefix}{}", keys.join("__").to_ascii_uppercase())
}

/// Of every error: key, what is wrong, source, remedy.
fn describe(error: figment::Error, env_prefix: &str) -> String {
    use figment::error::Kind;
    let lines: Vec<String> = error
        .into_iter()
        .map(|error| {
            let mut path: Vec<&str> = error.path.iter().map(String::as_str).collect();
            let what = match &error.kind {
                Kind::UnknownField(field, expected) => {
                    if path.last() != Some(&field.as_str()) {
                        path.push(field);
                    }
                    format!(
                        "unknown setting; this section knows {}",
                        expected.join(", ")
                    )
                }
                Kind::InvalidType(found, expected) => {
                    let found = found_words(found);
                    if expected.starts_with("struct ") {
                        let section = path.join(".");
                        format!("{found} is no section: write [{section}] and its settings below")
                    } else {
                        format!("{found} stands where {expected} belongs")
                    }
                }
                other => one_line(&other.to_string()),
            };
            let source = match error.metadata.as_ref() {
                Some(metadata) if metadata.name == "environment" => {
                    format!("environment variable {}", variable(env_prefix, &path))
                }
                Some(metadata) => metadata
                    .source
                    .as_ref()
                    .and_then(figment::Source::file_path)
                    .map_or_else(
                        || metadata.name.to_string(),
                        |file| format!("file {}", file.display()),
                    ),
                None => "configuration".to_owned(),
            };
            if path.is_empty() {
                format!("{what} ({source})")
            } else {
                format!("{}: {what} ({source})", path.join("."))
            }
        })
        .collect();
    format!("configuration: {}", lines.join("; "))
}

/// What stands in the place of something else, without the parser's types.
fn found_words(found: &Actual) -> String {
    match found {
        Actual::Map => "a section".to_owned(),
        Actual::Seq => "a list".to_owned(),
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(number) => number.to_string(),
        Actual::Signed(number) => number.to_string(),
        Actual::Float(number) => number.to_string(),
        Actual::Str(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

/// The TOML parser writes for a terminal: the place, the offending line with a mark under it, then what is wrong.
fn one_line(text: &str) -> String {
    let is_picture = |line: &str| {
        let line = line
            .trim_start()
            .trim_start_matches(|c: char| c.is_ascii_digit());
        line.trim_start().starts_with('|')
    };
    let mut lines = text.lines().filter(|line| !is_picture(line)).map(str::trim);
    let first = lines.next().unwrap_or_default();
    let first = first.trim_start_matches("TOML parse error ");
    let rest: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    if rest.is_empty() {
        first.to_owned()
    } else {
        format!("{} ({first})", rest.join(", "))
    }
}

/// Reads a field from text or from TOML's own type, by the field's `FromStr`. For `#[serde(deserialize_with)]`.
pub fn text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let text = deserializer.deserialize_any(ScalarText)?;
    text.parse()
        .map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
}

/// Reads an optional field: empty text is `None`.
pub fn optional<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let text = deserializer.deserialize_any(ScalarText)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
}

/// Reads a list: a TOML array, or text whose items are separated by commas. One item needs no brackets.
pub fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let texts = deserializer.deserialize_any(ListText)?;
    texts
        .into_iter()
        .map(|text| {
            text.parse()
                .map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
        })
        .collect()
}

struct ScalarText;

impl Visitor<'_> for ScalarText {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, true or false")
    }

    fn visit_bool<E>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E>(self, value: f64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }
}

struct ListText;

impl<'de> Visitor<'de> for ListText {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of texts")
    }

    fn visit_str<E>(self, value: &str) -> Result<Vec<String>, E> {
        Ok(value
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<String>, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = items.next_element::<String>()? {
            texts.push(text);
        }
        Ok(texts)
    }
}

/// Where a listener listens: `HOST:PORT`, `[V6]:PORT` or `off`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum Listen {
    /// Not at all.
    Off,
    /// On this host (a name or an address, without brackets) and port; port 0 picks one.
    At {
        /// A name or an address.
        host: String,
        /// The port; 0 picks a free one.
        port: u16,
    },
}

impl Listen {
    /// On this host and port.
    pub fn at(host: &str, port: u16) -> Self {
        Self::At {
            host: host.to_owned(),
            port,
        }
    }

    /// Its port; 0 asks the system for one.
    pub const fn port(&self) -> Option<u16> {
        match self {
            Self::Off => None,
            Self::At { port, .. } => Some(*port),
        }
    }

    /// The same host on another port.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        match self {
            Self::Off => Self::Off,
            Self::At { host, .. } => Self::at(host, port),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self::Off);
        }
        if text.starts_with(':') {
            return Err(
                "a listener is HOST:PORT, [V6]:PORT or off; the host is missing: [::] is every address of this machine, \
                 127.0.0.1 this machine only"
                    .to_owned(),
            );
        }
        let (host, port) = split_host_port(text)?;
        let port = port.ok_or("a listener is HOST:PORT, [V6]:PORT or off; the port is missing")?;
        Ok(Self::At { host, port })
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At { host, port } => f.write_str(&join_host_port(host, *port)),
        }
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.to_string()
    }
}

/// `HOST:PORT` with brackets around an IPv6 address.
pub fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Splits `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT` or a bare `V6`; the host comes without brackets.
pub fn split_host_port(text: &str) -> Result<(String, Option<u16>), String> {
    let text = text.trim();
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(format!(
            "this is HOST or HOST:PORT: leave {scheme}:// and the path away"
        ));
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest
            .split_once(']')
            .ok_or("the closing ] of the IPv6 address is missing")?;
        host.parse::<std::net::Ipv6Addr>()
            .map_err(|_| format!("{host:?} is not an IPv6 address"))?;
        match rest {
            "" => (host, None),
            rest => (
                host,
                Some(
                    rest.strip_prefix(':')
                        .ok_or("after ] comes :PORT or nothing")?,
                ),
            ),
        }
    } else if text.parse::<std::net::Ipv6Addr>().is_ok() {
        (text, None)
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    if host.is_empty() || !host.chars().all(allowed) {
        return Err(format!("{host:?} is not a host name or an address"));
    }
    let port = port
        .map(|port| {
            port.parse::<u16>()
                .map_err(|_| format!("port {port:?} is not a number from 0 to 65535"))
        })
        .transpose()?;
    Ok((host.to_owned(), port))
}

/// `log.*`, the same in both programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// `auto` (text, in colour on a terminal), `text` or `json`.
    #[serde(deserialize_with = "text")]
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter like `info,firstmile_relay=debug`.
    #[serde(deserialize_with = "text")]
    pub level: LogLevel,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text, in colour on a terminal.
    #[default]
    Auto,
    /// Text without colour.
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("the format is auto, text or json"),
        }
    }
}

/// What is logged: a checked filter text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogLevel(String);

impl LogLevel {
    /// The filter text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogLevel {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        tracing_subscriber::EnvFilter::try_new(text)
            .map_err(|_| "the level is error, warn, info, debug or trace".to_owned())?;
        let is_level =
            |word: &str| matches!(word, "off" | "error" | "warn" | "info" | "debug" | "trace");
        // A bare word that is no level is a module name to the filter: a typo would switch the log off.
        if text
            .split(',')
            .any(|part| !part.contains('=') && !is_level(&part.to_ascii_lowercase()))
        {
            return Err("the level is error, warn, info, debug or trace".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

/// Where a program looks for its configuration when `--config` is not given.
pub fn default_file(program: &str) -> PathBuf {
    crate::os::config_dir().join(format!("{program}.toml"))
}

/// Every setting with a page of comments on it.
const FILE_LEN_MAX: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use figment::Jail;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Config {
        name: String,
        tunnel: Tunnel,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Tunnel {
        listen: Listen,
        #[serde(deserialize_with = "list")]
        public_address: Vec<String>,
        #[serde(deserialize_with = "text")]
        limit: u16,
    }

    impl Default for Tunnel {
        fn default() -> Self {
            Self {
                listen: Listen::at("::", 4433),
                public_address: Vec::new(),
                limit: 7,
            }
        }
    }

    fn load_here() -> Result<Config, String> {
        let file = Path::new("relay.toml");
        load(
            file.is_file().then_some(file),
            Path::new("nonexistent.toml"),
            "FM_TEST__",
        )
        .map_err(|e| e.message)
    }

    #[test]
    #[expect(clippy::result_large_err, reason = "Jail's own error type")]
    fn later_sources_win_and_text_stays_text() {
        Jail::expect_with(|jail| {
            assert_eq!(load_here(), Ok(Config::default()));
            jail.create_file(
                "relay.toml",
                "name = 'a'\n[tunnel]\nlimit = 8\npublic_address = ['x.example', 'y.example']",
            )?;
            let config = load_here().unwrap();
            assert_eq!(
                (config.tunnel.limit, config.tunnel.public_address.len()),
                (8, 2)
            );
            jail.set_env("FM_TEST__NAME", "2026");
            jail.set_env("FM_TEST__TUNNEL__LIMIT", "9");
            jail.set_env("FM_TEST__TUNNEL__PUBLIC_ADDRESS", "[::1]");
            jail.set_env("FM_TEST__TUNNEL__LISTEN", "off");
            let config = load_here().unwrap();
            assert_eq!(config.name, "2026");
            assert_eq!(
                config.tunnel,
                Tunnel {
                    listen: Listen::Off,
                    public_address: vec!["[::1]".into()],
                    limit: 9
                }
            );
            Ok(())
        });
    }

    #[test]
    #[expect(clippy::result_large_err, reason = "Jail's own error type")]
    fn what_is_wrong_is_named_with_its_value_and_its_source() {
        Jail::expect_with(|jail| {
            jail.create_file("relay.toml", "[tunnel]\nlissten = ':1935'\n")?;
            let error = load_here().unwrap_err();
            assert!(
                error.contains("tunnel.lissten: unknown setting; this section knows listen"),
                "{error}"
            );
            assert!(error.contains("relay.toml"), "{error}");
            jail.create_file("relay.toml", "")?;
            jail.set_env("FM_TEST__TUNNEL__LIMIT", "many");
            let error = load_here().unwrap_err();
            assert!(
                error.contains("tunnel.limit") && error.contains("\"many\""),
                "{error}"
            );
            assert!(
                error.contains("environment variable FM_TEST__TUNNEL__LIMIT"),
                "{error}"
            );
            Ok(())
        });
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_read_once_and_a_device_is_not_waited_for() {
        let load = |file: &Path| {
            load::<Config>(Some(file), Path::new("nonexistent.toml"), "FM_TEST__")
                .map_err(|e| e.message)
        };
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, b"[tunnel]\nlimit = 8\n").unwrap();
        drop(writer);
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        assert_eq!(load(Path::new(&path)).unwrap().tunnel.limit, 8);

        let error = load(Path::new("/dev/zero")).unwrap_err();
        assert!(
            error.contains("/dev/zero: it has more than 1048576 bytes"),
            "{error}"
        );
    }

    #[test]
    fn what_the_parser_draws_for_a_terminal_becomes_a_sentence() {
        let drawn = "TOML parse error at line 12, column 8\n   |\n12 | [tunnel\n   |        ^\ninvalid table header\nexpected `.`, `]`\n";
        assert_eq!(
            one_line(drawn),
            "invalid table header, expected `.`, `]` (at line 12, column 8)"
        );
        assert_eq!(one_line("a limit is a number"), "a limit is a number");
    }

    #[test]
    fn listeners_are_parsed_or_explained() {
        for (text, expected) in [
            ("off", Ok(Listen::Off)),
            ("[::]:1935", Ok(Listen::at("::", 1935))),
            ("127.0.0.1:0", Ok(Listen::at("127.0.0.1", 0))),
            ("localhost:80", Ok(Listen::at("localhost", 80))),
            ("1935", Err("the port is missing")),
            ("host:99999", Err("not a number from 0 to 65535")),
            ("[::1:80", Err("closing ]")),
            (":1935", Err("the host is missing")),
            ("rtmp://host:1", Err("leave rtmp:// and the path away")),
        ] {
            match (text.parse::<Listen>(), expected) {
                (Ok(listen), Ok(expected)) => assert_eq!(listen, expected),
                (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
                (got, expected) => panic!("{text}: {got:?}, not {expected:?}"),
            }
        }
        assert_eq!(Listen::at("::", 1).to_string(), "[::]:1");
    }

    #[test]
    fn a_setting_with_one_underscore_is_named_and_a_service_of_kubernetes_is_not() {
        let names = [
            "FM_TEST_DELAY",
            "FM_TEST_TUNNEL__PUBLIC_ADDRESS",
            "FM_TEST__DELAY",
            "FM_TEST",
            "FM_TESTER",
            "FM_TEST_PORT",
            "FM_TEST_PORT_1935_TCP_ADDR",
            "FM_TEST_SERVICE_HOST",
            "FM_TEST_RTMP_SERVICE_PORT_RTMP",
        ];
        let strays = strays(
            "FM_TEST__",
            names.iter().map(|name| (name.into(), "".into())),
        );
        assert_eq!(strays.len(), 2, "{strays:?}");
        assert!(
            strays[0].contains("FM_TEST_DELAY is no setting"),
            "{strays:?}"
        );
        assert!(
            strays[1].contains("FM_TEST_TUNNEL__PUBLIC_ADDRESS"),
            "{strays:?}"
        );
    }

    #[test]
    fn a_mistyped_level_does_not_switch_the_log_off() {
        assert!("inof".parse::<LogLevel>().is_err());
        assert!("info,firstmile_relay=debug".parse::<LogLevel>().is_ok());
    }
}
