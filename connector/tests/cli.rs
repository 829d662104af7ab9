//! The real binary, as scripts and people call it: output, exit codes, files.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by ending there"
)]

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// A state folder of its own; nothing of the machine's configuration reaches the program.
struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firstmile-connector"));
        let config = self.folder.path().join("connector.toml");
        if !config.exists() {
            fs::write(&config, "").unwrap();
        }
        command
            .env_clear()
            .env("FIRSTMILE_CONNECTOR__HTTP__LISTEN", "127.0.0.1:0")
            .env("FIRSTMILE_CONNECTOR__OUTPUT__DEFAULT", "null")
            .arg("--config")
            .arg(config)
            .arg("--state-dir")
            .arg(self.state())
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    fn call(&self, arguments: &[&str]) -> Called {
        Called::from(self.command(arguments).output().unwrap())
    }

    fn call_with_input(&self, arguments: &[&str], input: &str) -> Called {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        Called::from(child.wait_with_output().unwrap())
    }

    /// Starts the program and waits until it says where it listens.
    fn run(&self) -> Running {
        let child = self
            .command(&["run"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut running = Running { child };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.state().join("run.json").exists() {
            assert!(
                Instant::now() < deadline,
                "the program is not up: {}",
                running.log()
            );
            thread::sleep(Duration::from_millis(20));
        }
        running
    }
}

/// How a call ended.
#[derive(Debug)]
struct Called {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Called {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Called {
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.out).unwrap()
    }
}

/// A program that ends with the test.
struct Running {
    child: Child,
}

impl Running {
    fn terminate(&mut self) -> (Option<i32>, Duration) {
        let start = Instant::now();
        // The shell's own: a minimal Debian has no program of that name.
        let kill = format!("kill -TERM {}", self.child.id());
        let killed = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(killed.success());
        let code = self.child.wait().unwrap().code();
        (code, start.elapsed())
    }

    fn log(&mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut log = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut log).unwrap();
        }
        log
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn http_get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn lines_are_managed_without_a_running_program() {
    let home = Home::new();
    let added = home.call(&["line", "add", "Camera 1"]);
    assert_eq!(added.code, 0, "{added:?}");
    let printed: Vec<_> = added.out.lines().collect();
    assert!(
        printed[0].starts_with("url: ") && printed[1].starts_with("key: "),
        "{added:?}"
    );
    let key = printed[1].trim_start_matches("key: ");
    assert_eq!(key.split('-').map(str::len).collect::<Vec<_>>(), [4, 4, 4]);

    let list = home.call(&["line", "list", "--json"]).json();
    assert_eq!(list[0]["name"], "Camera 1");
    assert_eq!(list[0]["key"], key);
    assert_eq!(list[0]["enabled"], true);
    assert!(list[0]["urls"].is_array());

    assert_eq!(
        home.call(&["line", "set", "camera 1", "delay=safe", "hold=forever"])
            .code,
        0
    );
    let text = fs::read_to_string(home.state().join("lines.toml")).unwrap();
    assert!(
        text.contains("delay = \"safe\"\nhold = \"forever\""),
        "{text}"
    );
    assert!(home.call(&["line", "list"]).out.contains("1500 ms"));

    assert_eq!(home.call(&["line", "remove", "Camera 1"]).code, 0);
    assert_eq!(home.call(&["line", "list", "--json"]).out, "[]\n");
}

#[test]
fn what_goes_wrong_ends_with_the_contracts_code_and_a_sentence() {
    let home = Home::new();
    home.call(&["line", "add", "Camera 1"]);
    // (arguments, code, what standard error says)
    for (arguments, code, words) in [
        (
            &["line", "add", "CAMERA 1"][..],
            2,
            "there is a line \"Camera 1\" already",
        ),
        (
            &["line", "add", "x", "--key", "short"],
            2,
            "a key has 8 to 128 characters",
        ),
        (
            &["line", "set", "Camera 1", "dealy=fast"],
            2,
            "unknown setting \"dealy\"",
        ),
        (
            &["line", "set", "Camera 1", "delay=slow"],
            2,
            "delay = \"slow\" is not studio",
        ),
        (&["line", "set", "Camera 1", "delay"], 2, "not KEY=VALUE"),
        (
            &["line", "remove", "Camera 9"],
            2,
            "there is no line \"Camera 9\"; the lines are \"Camera 1\"",
        ),
        (
            &["line", "url", "Camera 9"],
            2,
            "there is no line \"Camera 9\"",
        ),
        (&["line", "url", "Camera 1"], 69, "firstmile-connector join"),
        (&["status"], 69, "does not run with the state folder"),
        (
            &["status", "--json"],
            69,
            "does not run with the state folder",
        ),
        (&["join"], 2, "--token-file"),
        (
            &["join", "--token-file", "/nonexistent"],
            74,
            "/nonexistent",
        ),
        (&["join", "fm1.abc"], 2, "never an argument"),
        (
            &["line", "add", "x", "--key-file", "/nonexistent"],
            74,
            "/nonexistent",
        ),
        (&["nonsense"], 2, "nonsense"),
    ] {
        let called = home.call(arguments);
        assert_eq!(called.code, code, "{arguments:?}: {called:?}");
        assert!(called.err.contains(words), "{arguments:?}: {called:?}");
        assert!(!called.err.contains("panicked"), "{called:?}");
    }
}

#[test]
fn a_mangled_token_is_exit_2_wherever_it_comes_from() {
    let home = Home::new();
    for token in ["fm1.AAAA", "hello", ""] {
        let called = home.call_with_input(&["join", "--token-file", "-"], token);
        assert_eq!(called.code, 2, "{token:?}: {called:?}");
        let from_environment = home
            .command(&["join"])
            .env("FIRSTMILE_JOIN_TOKEN", token)
            .output();
        assert_eq!(
            from_environment.unwrap().status.code(),
            Some(2),
            "{token:?}"
        );
    }
}

#[test]
fn an_own_key_comes_from_a_file_and_is_warned_of_when_weak_or_visible() {
    let home = Home::new();
    let strong = home.call_with_input(
        &["line", "add", "A", "--key-file", "-"],
        "Truck.7-cam~A_2026\n",
    );
    assert_eq!((strong.code, strong.err.as_str()), (0, ""), "{strong:?}");
    assert!(
        strong.out.contains("key: Truck.7-cam~A_2026\n"),
        "{strong:?}"
    );
    let weak = home.call(&["line", "add", "B", "--key", "cameracam"]);
    assert_eq!(weak.code, 0);
    assert!(
        weak.err.contains("easy to guess") && weak.err.contains("--key-file"),
        "{weak:?}"
    );
}

#[test]
fn a_wrong_configuration_is_78_and_named() {
    let home = Home::new();
    fs::write(
        home.folder.path().join("connector.toml"),
        "[http]\nlissten = 'off'\n",
    )
    .unwrap();
    for arguments in [&["check-config"][..], &["run"], &["line", "list"]] {
        let called = home.call(arguments);
        assert_eq!(called.code, 78, "{called:?}");
        assert!(
            called.err.contains("http.lissten") && called.err.contains("connector.toml"),
            "{called:?}"
        );
    }
    fs::write(
        home.folder.path().join("connector.toml"),
        "delay = 'fast'\n",
    )
    .unwrap();
    let called = home.call(&["check-config"]);
    assert_eq!(called.code, 0, "{called:?}");
    assert!(
        called.out.contains("delay = 300 ms\n") && called.out.contains("\noutput.default = null\n"),
        "{called:?}"
    );
    let called = home
        .command(&["check-config"])
        .env("FIRSTMILE_CONNECTOR__NDI__MACHINE_NAME", "OB3")
        .output()
        .unwrap();
    let called = Called::from(called);
    assert!(
        called
            .err
            .contains("warning: ndi.machine_name has no effect in this version"),
        "{called:?}"
    );
    let called = home
        .command(&["run"])
        .env("FIRSTMILE_CONNECTOR__DELAY", "slow")
        .output()
        .unwrap();
    let called = Called::from(called);
    assert_eq!(called.code, 78);
    assert!(
        called.err.contains("FIRSTMILE_CONNECTOR__DELAY") && called.err.contains("slow"),
        "{called:?}"
    );

    fs::write(
        home.state().join("lines.toml"),
        "[[line]]\nname = 'A'\nhold = 'x'\n",
    )
    .unwrap();
    for arguments in [&["check-config"][..], &["run"], &["line", "add", "B"]] {
        let called = home.call(arguments);
        assert_eq!(called.code, 78, "{called:?}");
        assert!(
            called.err.contains("lines.toml: line \"A\": hold = \"x\""),
            "{called:?}"
        );
    }
}

#[test]
fn the_running_program_answers_the_command_line_and_the_page() {
    let home = Home::new();
    let mut running = home.run();
    let run: Value =
        serde_json::from_slice(&fs::read(home.state().join("run.json")).unwrap()).unwrap();
    assert_eq!(run["pid"], running.child.id());
    let address = run["http"].as_str().unwrap();

    let added = home.call(&["line", "add", "Camera 1", "--json"]).json();
    assert_eq!(added["name"], "Camera 1");
    let status = home.call(&["status", "--json"]).json();
    assert_eq!(status["lines"][0]["name"], "Camera 1");
    assert_eq!(status["lines"][0]["state"], "waiting");
    assert_eq!(status["lines"][0]["delay_ms"], 600);
    assert_eq!(status["relays"], serde_json::json!([]));
    assert!(home.call(&["status"]).out.contains("no relay joined"));
    assert!(http_get(address, "/").contains("<title>Firstmile</title>"));
    assert!(http_get(address, "/livez").ends_with("ok\n"));
    assert!(
        http_get(address, "/metrics")
            .contains("firstmile_connector_line_live{line=\"Camera 1\"} 0")
    );
    assert!(http_get(address, "/api/v1/lines").starts_with("HTTP/1.1 403"));

    // An edit by hand reaches the running line within about a second.
    let file = home.state().join("lines.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}delay = 250 # for the talk\n")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while home.call(&["status", "--json"]).json()["lines"][0]["delay_ms"] != 250 {
        assert!(Instant::now() < deadline, "the edit was not taken over");
        thread::sleep(Duration::from_millis(50));
    }
    assert!(
        fs::read_to_string(&file)
            .unwrap()
            .contains("# for the talk")
    );

    let second = home.call(&["run"]);
    assert_eq!(second.code, 69, "{second:?}");
    assert!(second.err.contains("--state-dir"), "{second:?}");

    let (code, took) = running.terminate();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert!(!home.state().join("run.json").exists());
    let log = running.log();
    assert!(
        log.contains("the page is at http://127.0.0.1:")
            && log.contains("next: paste the join token"),
        "{log}"
    );
    let key = added["key"].as_str().unwrap();
    assert!(!log.contains(key), "{log}");
}

#[test]
fn a_taken_port_costs_the_page_and_not_the_lines() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut child = home
        .command(&["run"])
        .env("FIRSTMILE_CONNECTOR__HTTP__LISTEN", &address)
        .stderr(Stdio::piped())
        .spawn()
        .map(|child| Running { child })
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let status = loop {
        let called = home.call(&["status", "--json"]);
        if called.code == 0 && called.json()["notices"][0]["text"].is_string() {
            break called.json();
        }
        assert!(Instant::now() < deadline, "{called:?} {}", child.log());
        thread::sleep(Duration::from_millis(20));
    };
    let notice = status["notices"][0]["text"].as_str().unwrap();
    assert!(
        notice.contains("page") && notice.contains(&address),
        "{notice}"
    );

    drop(taken);
    let deadline = Instant::now() + Duration::from_secs(15);
    while TcpStream::connect(&address).is_err() {
        assert!(
            Instant::now() < deadline,
            "the page did not come back: {}",
            child.log()
        );
        thread::sleep(Duration::from_millis(50));
    }
    assert!(http_get(&address, "/livez").ends_with("ok\n"));
}

#[test]
fn completions_and_version_need_no_state() {
    let home = Home::new();
    assert!(
        home.call(&["completions", "bash"])
            .out
            .contains("firstmile-connector")
    );
    let version = home.call(&["--version"]);
    assert_eq!(
        version.out,
        format!("firstmile-connector {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert!(!home.state().exists());
}
