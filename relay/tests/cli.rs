//! The program as scripts use it: the real binary, its own state folder, exit codes and what is printed where.

#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    reason = "the helpers are part of the tests; a wrong one fails them"
)]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use firstmile_shared::token::JoinToken;
use serde_json::{Value, json};
use tempfile::TempDir;

/// One state folder, and the relay that may run with it.
struct Place {
    folder: TempDir,
    settings: Vec<(&'static str, String)>,
    running: Option<Child>,
}

impl Place {
    fn new() -> Self {
        let listen = [
            "FIRSTMILE_RELAY__RTMP__LISTEN",
            "FIRSTMILE_RELAY__RTMPS__LISTEN",
            "FIRSTMILE_RELAY__TUNNEL__LISTEN",
            "FIRSTMILE_RELAY__HTTP__LISTEN",
        ];
        Self {
            folder: tempfile::tempdir().unwrap(),
            settings: listen.map(|name| (name, "127.0.0.1:0".to_owned())).to_vec(),
            running: None,
        }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.settings.retain(|(known, _)| *known != name);
        self.settings.push((name, value.to_owned()));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firstmile-relay"));
        command
            .arg("--state-dir")
            .arg(self.state())
            .args(arguments)
            .env_clear()
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    fn ask(&self, arguments: &[&str]) -> Answer {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command(arguments).output().unwrap();
        Answer {
            code: status.code(),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// Starts the relay and waits until it answers.
    fn start(&mut self) {
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let child = self
            .command(&[])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while self.ask(&["status"]).code != Some(0) {
            let ended = self.running.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "no relay: {ended:?}\n{}",
                self.log()
            );
            thread::sleep(POLL);
        }
    }

    /// Sends SIGTERM and waits for the end.
    fn stop(&mut self) -> Option<i32> {
        let mut child = self.running.take().unwrap();
        // The shell's own: a minimal Debian has no program of that name.
        let killed = Command::new("sh")
            .args(["-c", &format!("kill {}", child.id())])
            .status()
            .unwrap();
        assert!(killed.success());
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it did not end\n{}", self.log());
            thread::sleep(POLL);
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn run_file(&self) -> Value {
        serde_json::from_slice(&fs::read(self.state().join("run.json")).unwrap()).unwrap()
    }

    fn http(&self, host: &str, path: &str) -> String {
        let address: SocketAddr = self.run_file()["http"].as_str().unwrap().parse().unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[derive(Debug)]
struct Answer {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Answer {
    /// Standard output of a command that worked.
    fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// Standard error of a command that failed with `code`, having printed nothing else.
    fn failed(self, code: i32) -> String {
        assert_eq!(
            (self.code, self.stdout.as_str()),
            (Some(code), ""),
            "{self:?}"
        );
        self.stderr
    }
}

#[test]
fn invite_prints_the_token_and_nothing_else_running_or_not() {
    let mut place = Place::new();
    place.set("FIRSTMILE_RELAY__TUNNEL__LISTEN", "127.0.0.1:14433");
    let alone = place.ask(&["invite", "truck1", "--address", "relay.example"]);
    assert!(alone.stderr.contains("secret"), "{alone:?}");
    let alone = alone.ok();
    place.set("FIRSTMILE_RELAY__TUNNEL__LISTEN", "127.0.0.1:0");
    place.start();
    let asked = place.ask(&["invite", "truck1", "--address", "relay.example:5000"]);
    let asked = asked.ok();

    let mut pins = Vec::new();
    for (printed, address) in [
        (&alone, "relay.example:14433"),
        (&asked, "relay.example:5000"),
    ] {
        let line = printed.strip_suffix('\n').unwrap();
        assert!(line.starts_with("fm1.") && !line.contains(char::is_whitespace));
        let token = JoinToken::parse(line).unwrap();
        assert_eq!(token.addresses, [address]);
        assert_eq!(token.studio, "truck1");
        pins.push(token.pins);
    }
    assert_eq!(pins[0], pins[1], "one relay, one identity");
    let studios = place.ask(&["studios", "--json"]).json();
    let created = studios[0]["created"].clone();
    assert_eq!(
        studios,
        json!([{"name": "truck1", "connectors": 0, "lines": 0, "created": created}])
    );
}

#[test]
fn invite_as_data_holds_what_the_contract_says() {
    let place = Place::new();
    let invited = place
        .ask(&[
            "invite",
            "truck1",
            "--json",
            "--ttl",
            "2h",
            "--uses",
            "3",
            "--address",
            "127.0.0.1:7",
            "--address",
            "[::1]:7",
        ])
        .json();
    let fields: Vec<_> = invited.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["addresses", "expires", "studio", "token"]);
    assert_eq!(invited["addresses"], json!(["127.0.0.1:7", "[::1]:7"]));
    let token = JoinToken::parse(invited["token"].as_str().unwrap()).unwrap();
    assert_eq!(token.addresses, ["127.0.0.1:7", "[::1]:7"]);
}

#[test]
fn a_token_that_would_be_useless_is_not_made() {
    let mut place = Place::new();
    place.set("FIRSTMILE_RELAY__TUNNEL__LISTEN", "127.0.0.1:14433");
    // (arguments, exit code, what standard error says)
    for (arguments, code, says) in [
        (&["invite", "truck1"][..], 78, "tunnel.public_address"),
        (&["invite", "Truck"], 2, "can't be a studio's name"),
        (&["invite", "truck1", "--ttl", "soon"], 2, "like 10s or 24h"),
        (&["invite", "truck1", "--uses", "0"], 2, "1..=1000"),
        (
            &["invite", "truck1", "--address", "rtmp://x"],
            2,
            "--address",
        ),
        (&["invite"], 2, "<STUDIO>"),
        (&["invites"], 2, "unrecognized"),
    ] {
        let error = place.ask(arguments).failed(code);
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
    assert_eq!(place.ask(&["studios", "--json"]).json(), json!([]));
}

#[test]
fn without_a_running_relay_status_is_unavailable() {
    let place = Place::new();
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["drain"],
        &["healthcheck"],
    ] {
        let error = place.ask(arguments).failed(69);
        assert!(error.contains("does not run"), "{arguments:?}: {error}");
    }
    assert_eq!(place.ask(&["connectors", "--json"]).json(), json!([]));
    let nobody = place.ask(&["publishers"]).ok();
    assert_eq!(nobody, "no encoder publishes\n");
    // Nobody is to take that for an answer of a relay that runs elsewhere.
    let said = place.ask(&["publishers"]).stderr;
    assert!(
        said.contains("no relay runs with the state folder"),
        "{said}"
    );
}

#[test]
fn a_running_relay_says_where_it_listens_and_ends_well() {
    let mut place = Place::new();
    place.start();
    let run = place.run_file();
    let status = place.ask(&["status", "--json"]).json();
    for listener in ["rtmp", "rtmps", "tunnel", "http"] {
        let address: SocketAddr = run[listener].as_str().unwrap().parse().unwrap();
        assert_ne!(address.port(), 0, "{listener}");
        assert_eq!(status["listen"][listener], run[listener]);
    }
    assert_eq!(
        (
            &status["state"],
            &status["publishers"],
            &status["connectors"]
        ),
        (&json!("ready"), &json!(0), &json!(0))
    );
    let mode = fs::metadata(place.state()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    for entry in fs::read_dir(place.state()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?} is private", entry.path());
    }
    place.ask(&["healthcheck"]).ok();
    let second = place.ask(&["run"]).failed(69);
    assert!(second.contains("another firstmile-relay runs"), "{second}");

    assert_eq!(place.stop(), Some(0), "{}", place.log());
    assert!(place.log().contains("invite STUDIO"), "{}", place.log());
    assert!(!place.state().join("run.json").exists());
    place.ask(&["status"]).failed(69);
}

#[test]
fn drain_refuses_newcomers_and_is_seen_by_load_balancers() {
    let mut place = Place::new();
    place.start();
    assert!(
        place
            .http("localhost", "/readyz")
            .starts_with("HTTP/1.1 200")
    );
    let told = place.ask(&["drain"]);
    assert!(told.stderr.contains("no new publishers"), "{told:?}");
    told.ok();
    assert!(
        place
            .http("localhost", "/readyz")
            .starts_with("HTTP/1.1 503")
    );
    assert!(
        place
            .http("localhost", "/livez")
            .starts_with("HTTP/1.1 200")
    );
    let status = place.ask(&["status", "--json"]).json();
    assert_eq!(status["state"], "draining");
}

#[test]
fn the_api_answers_for_its_own_host_only() {
    let mut place = Place::new();
    place.start();
    for (host, path, status) in [
        ("localhost", "/metrics", "200"),
        ("127.0.0.1:8080", "/api/v1/status", "200"),
        ("localhost", "/api/v1/studios", "200"),
        ("localhost", "/api/v1/publishers", "200"),
        ("localhost", "/api/v1/connectors", "200"),
        ("localhost", "/", "404"),
        ("evil.example", "/api/v1/status", "421"),
        ("evil.example", "/livez", "421"),
    ] {
        let answer = place.http(host, path);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{host} {path}: {answer}"
        );
    }
    assert!(
        place
            .http("localhost", "/metrics")
            .contains("firstmile_relay_build_info{version=")
    );
}

#[test]
fn revoking_names_what_it_did_and_what_is_not_there() {
    let mut place = Place::new();
    place.start();
    place
        .ask(&["invite", "truck1", "--address", "127.0.0.1"])
        .ok();
    let gone = place.ask(&["revoke", "studio", "truck1"]);
    assert!(gone.stderr.contains("studio truck1 is revoked"), "{gone:?}");
    gone.ok();
    assert_eq!(place.ask(&["studios", "--json"]).json(), json!([]));
    let error = place.ask(&["revoke", "studio", "truck1"]).failed(2);
    assert!(error.contains("no studio is called \"truck1\""), "{error}");
    let error = place
        .ask(&["revoke", "connector", "0123456789ab"])
        .failed(2);
    assert!(error.contains("\"0123456789ab\""), "{error}");
}

#[test]
fn a_broken_configuration_stops_the_start_and_is_named() {
    let mut place = Place::new();
    let file = place.folder.path().join("relay.toml");
    let file = file.to_str().unwrap();
    // (file, variable, what standard error says)
    for (toml, variable, says) in [
        (
            "[rtmp]\nlissten = 1",
            None,
            &["rtmp.lissten", "relay.toml"][..],
        ),
        ("[tunnel", None, &["relay.toml"]),
        (
            "",
            Some(("FIRSTMILE_RELAY__RTMP__LISTEN", "1935")),
            &["rtmp.listen", "\"1935\"", "FIRSTMILE_RELAY__RTMP__LISTEN"],
        ),
        (
            "",
            Some(("FIRSTMILE_RELAY__LIMITS__PUBLISHERS", "many")),
            &["limits.publishers", "\"many\"", "1 to 65536"],
        ),
        (
            "",
            Some(("FIRSTMILE_RELAY__COLOUR", "red")),
            &["colour", "FIRSTMILE_RELAY__COLOUR"],
        ),
    ] {
        fs::write(file, toml).unwrap();
        let settings = place.settings.clone();
        if let Some((name, value)) = variable {
            place.set(name, value);
        }
        for command in ["run", "check-config"] {
            let error = place.ask(&["--config", file, command]).failed(78);
            for part in says {
                assert!(error.contains(part), "no {part:?} in {error}");
            }
            assert!(!error.contains("panicked"), "{error}");
        }
        place.settings = settings;
    }
    let error = place
        .ask(&["--config", "/nonexistent.toml", "check-config"])
        .failed(78);
    assert!(error.contains("/nonexistent.toml"), "{error}");
}

#[test]
fn check_config_shows_what_is_in_force_and_what_is_not_served() {
    let mut place = Place::new();
    place.set("FIRSTMILE_RELAY__HTTPS__LISTEN", "[::]:443");
    place.set("FIRSTMILE_RELAY__TUNNEL__PUBLIC_ADDRESS", "[::1]");
    place.set("FIRSTMILE_RELAY_LOG_LEVEL", "debug");
    let checked = place.ask(&["check-config"]);
    assert!(
        (checked.stderr).contains("FIRSTMILE_RELAY_LOG_LEVEL is no setting"),
        "{checked:?}"
    );
    assert!(
        checked
            .stderr
            .contains("https.listen = \"[::]:443\" takes connectors only"),
        "{checked:?}"
    );
    let text = checked.ok();
    assert!(text.contains("tunnel.public_address = [\"::1\"]"), "{text}");
    assert!(text.contains("rtmps.listen = "), "{text}");
    assert!(text.contains("https.listen = \"[::]:443\""), "{text}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let mut place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    place.set("FIRSTMILE_RELAY__RTMP__LISTEN", &address);
    let error = place.ask(&["run"]).failed(74);
    assert!(
        error.contains("rtmp.listen") && error.contains(&address),
        "{error}"
    );
}

#[test]
fn a_damaged_state_folder_is_named() {
    let place = Place::new();
    fs::create_dir(place.state()).unwrap();
    for (mode, database, code, says) in [
        (0o755, None, 78, "chmod 700"),
        (
            0o700,
            Some("no database, but long enough to look like one"),
            74,
            "relay.sqlite",
        ),
    ] {
        fs::set_permissions(place.state(), fs::Permissions::from_mode(mode)).unwrap();
        if let Some(database) = database {
            fs::write(place.state().join("relay.sqlite"), database).unwrap();
        }
        let error = place.ask(&["run"]).failed(code);
        assert!(error.contains(says), "{error}");
    }
}

/// A full disk or a bad restore: the file is kept as it is, for whoever can save it.
#[test]
fn a_damaged_database_is_named_with_a_remedy_and_left_alone() {
    let place = Place::new();
    place
        .ask(&["invite", "truck1", "--address", "192.0.2.7:4433"])
        .ok();
    let file = place.state().join("relay.sqlite");
    let whole = fs::read(&file).unwrap();
    for damaged in [vec![0xa5; 5_000], whole[..3_000].to_vec()] {
        fs::write(&file, &damaged).unwrap();
        let error = place.ask(&["run"]).failed(74);
        assert!(
            error.contains("relay.sqlite") && error.contains("restore a backup"),
            "{error}"
        );
        assert_eq!(fs::read(&file).unwrap(), damaged);
    }
}

#[test]
fn the_small_commands_work() {
    let place = Place::new();
    assert_eq!(
        place.ask(&["--version"]).ok(),
        format!("firstmile-relay {}\n", env!("CARGO_PKG_VERSION"))
    );
    for shell in ["bash", "zsh", "fish"] {
        let script = place.ask(&["completions", shell]).ok();
        assert!(script.contains("invite"), "{shell}");
    }
    assert!(!Path::new(&place.state()).exists(), "they touch no state");
}

const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
