//! Configurations and state folders that do not allow a start, for both programs: the right exit code, and one sentence that
//! names the value, where it is from, and what to do. And what is not so bad, with which they start.

#![cfg(unix)]

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    os::unix::fs::symlink,
    time::Duration,
};

use firstmile_tests::{
    harness::{Encoder, EncoderSettings, Need, OutputKind, PATIENCE, Show, can_run, wait_for},
    place::{
        Place,
        Which::{self, Connector, Relay},
        fill, is_private_machine, is_skipped, mount,
    },
};
use serde_json::Value;

/// What is wrong, and what is said about it.
struct Case {
    what: &'static str,
    programs: &'static [Which],
    arrange: fn(&mut Place) -> anyhow::Result<()>,
    code: i32,
    /// All of these are in the sentence; `{state}` and `{config}` stand for the paths.
    says: &'static [&'static str],
}

const BOTH: &[Which] = &[Relay, Connector];
const USAGE: i32 = 2;
const UNAVAILABLE: i32 = 69;
const IO: i32 = 74;
const CONFIG: i32 = 78;

#[rustfmt::skip]
const CONFIGURATIONS: &[Case] = &[
    Case { what: "an unknown key", programs: BOTH, code: CONFIG,
        arrange: |place| place.config("[http]\nlissten = 'off'\n"),
        says: &["http.lissten", "unknown setting", "knows listen", "{config}"] },
    Case { what: "an unknown section", programs: BOTH, code: CONFIG,
        arrange: |place| place.config("[httpx]\nlisten = 'off'\n"),
        says: &["httpx", "unknown setting", "{config}"] },
    Case { what: "an unknown variable", programs: BOTH, code: CONFIG,
        arrange: |place| { place.variable("COLOUR", "red"); Ok(()) },
        says: &["colour", "unknown setting", "__COLOUR"] },
    Case { what: "a section that is a value", programs: BOTH, code: CONFIG,
        arrange: |place| { place.unset("HTTP__LISTEN"); place.config("http = 8080\n") },
        says: &["http: 8080 is no section", "write [http]", "{config}"] },
    Case { what: "a listener that is a section", programs: BOTH, code: CONFIG,
        arrange: |place| { place.unset("HTTP__LISTEN"); place.config("[http.listen]\nport = 8080\n") },
        says: &["http.listen: a section stands where a text", "{config}"] },
    Case { what: "a word for a number", programs: &[Relay], code: CONFIG,
        arrange: |place| { place.variable("LIMITS__PUBLISHERS", "many"); Ok(()) },
        says: &["limits.publishers", "\"many\"", "from 1 to 65536", "FIRSTMILE_RELAY__LIMITS__PUBLISHERS"] },
    Case { what: "a word for a delay", programs: &[Connector], code: CONFIG,
        arrange: |place| place.config("delay = 'slow'\n"),
        says: &["delay", "\"slow\"", "fast, normal, safe, rough", "{config}"] },
    Case { what: "neither true nor false", programs: &[Connector], code: CONFIG,
        arrange: |place| { place.variable("TUNNEL__SEGMENTATION_OFFLOAD", "perhaps"); Ok(()) },
        says: &["tunnel.segmentation_offload", "\"perhaps\"", "FIRSTMILE_CONNECTOR__TUNNEL__SEGMENTATION_OFFLOAD"] },
    Case { what: "a list for a text", programs: BOTH, code: CONFIG,
        arrange: |place| place.config("[log]\nlevel = ['info']\n"),
        says: &["log.level: a list stands where a text", "{config}"] },
    Case { what: "an unknown level", programs: BOTH, code: CONFIG,
        arrange: |place| { place.variable("LOG__LEVEL", "inof"); Ok(()) },
        says: &["log.level", "\"inof\"", "info, debug or trace", "__LOG__LEVEL"] },
    Case { what: "no TOML", programs: BOTH, code: CONFIG,
        arrange: |place| place.config("[http\nlisten = 'off'\n"),
        says: &["line 1", "{config}"] },
    Case { what: "no text", programs: BOTH, code: CONFIG,
        arrange: |place| place.config_bytes(b"\xff\xfe[\0h\0"),
        says: &["{config}", "UTF-8", "--config"] },
    Case { what: "no file", programs: BOTH, code: CONFIG,
        arrange: |place| { place.config_at("nowhere.toml"); Ok(()) },
        says: &["nowhere.toml", "--config"] },
    Case { what: "a folder for a file", programs: BOTH, code: CONFIG,
        arrange: |place| { place.config_at(""); Ok(()) },
        says: &["{config}", "directory", "--config"] },
    Case { what: "a file that only another user can read", programs: BOTH, code: CONFIG,
        arrange: |place| { place.config("")?; place.lock_away_config()?; place.as_nobody() },
        says: &["{config}", "ermission denied", "--config"] },
    Case { what: "a listener without a port", programs: BOTH, code: CONFIG,
        arrange: |place| { place.variable("HTTP__LISTEN", "127.0.0.1"); Ok(()) },
        says: &["http.listen", "\"127.0.0.1\"", "port is missing", "__HTTP__LISTEN"] },
    Case { what: "a port beyond the last", programs: BOTH, code: CONFIG,
        arrange: |place| { place.variable("HTTP__LISTEN", "127.0.0.1:65536"); Ok(()) },
        says: &["http.listen", "65536", "from 0 to 65535", "__HTTP__LISTEN"] },
    Case { what: "an address without its bracket", programs: BOTH, code: CONFIG,
        arrange: |place| { place.variable("HTTP__LISTEN", "[::1:80"); Ok(()) },
        says: &["http.listen", "[::1:80", "closing ]", "__HTTP__LISTEN"] },
    Case { what: "a URL for a host", programs: &[Relay], code: CONFIG,
        arrange: |place| { place.variable("TUNNEL__PUBLIC_ADDRESS", "rtmp://relay.example"); Ok(()) },
        says: &["tunnel.public_address", "rtmp://relay.example", "__TUNNEL__PUBLIC_ADDRESS"] },
    Case { what: "somebody else's address", programs: &[Relay], code: IO,
        arrange: |place| { place.variable("RTMP__LISTEN", "203.0.113.7:1935"); Ok(()) },
        says: &["rtmp.listen = \"203.0.113.7:1935\"", "no such address", "[::]"] },
    Case { what: "a taken TCP port", programs: &[Relay], code: IO,
        arrange: |place| {
            let taken = TcpListener::bind("127.0.0.1:0")?;
            place.variable("RTMP__LISTEN", &taken.local_addr()?.to_string());
            place.keep(taken);
            Ok(())
        },
        says: &["rtmp.listen = \"127.0.0.1:", "in use", "choose another port"] },
    Case { what: "a taken UDP port", programs: &[Relay], code: IO,
        arrange: |place| {
            let taken = UdpSocket::bind("127.0.0.1:0")?;
            place.variable("TUNNEL__LISTEN", &taken.local_addr()?.to_string());
            place.keep(taken);
            Ok(())
        },
        says: &["tunnel.listen = \"127.0.0.1:", "in use", "choose another port"] },
    Case { what: "a port of root's", programs: &[Relay], code: IO,
        arrange: |place| {
            place.variable("RTMP__LISTEN", "127.0.0.1:443");
            place.make_state()?;
            place.give_folder_away()?;
            place.as_nobody()
        },
        says: &["rtmp.listen = \"127.0.0.1:443\"", "ermission denied", "CAP_NET_BIND_SERVICE"] },
];

#[rustfmt::skip]
const STATES: &[Case] = &[
    Case { what: "a folder that others can enter", programs: BOTH, code: CONFIG,
        arrange: |place| { place.make_state()?; place.chmod("", 0o755) },
        says: &["{state}", "0700", "chmod 700"] },
    Case { what: "another user's folder", programs: BOTH, code: CONFIG,
        arrange: |place| { place.make_state()?; place.give_away("") },
        says: &["{state}", "this user", "--state-dir"] },
    Case { what: "a file for a folder", programs: BOTH, code: IO,
        arrange: |place| Ok(fs::write(place.state(), "")?),
        says: &["{state}", "no folder", "choose another place"] },
    Case { what: "a folder in a file", programs: BOTH, code: IO,
        arrange: |place| { fs::write(place.state(), "")?; place.move_state("below"); Ok(()) },
        says: &["{state}", "no folder", "choose another place"] },
    Case { what: "a link to nowhere", programs: BOTH, code: IO,
        arrange: |place| Ok(symlink("/nonexistent/state", place.state())?),
        says: &["{state}", "no folder", "choose another place"] },
    Case { what: "a place where this user can make nothing", programs: BOTH, code: IO,
        arrange: |place| { place.close_parent()?; place.as_nobody() },
        says: &["{state}", "ermission denied", "let the user"] },
    Case { what: "a relative place", programs: BOTH, code: CONFIG,
        arrange: |place| { place.state_from("STATE_DIRECTORY", "state"); Ok(()) },
        says: &["\"state\"", "$STATE_DIRECTORY", "absolute", "--state-dir"] },
    Case { what: "no place at all", programs: BOTH, code: CONFIG,
        arrange: |place| { place.state_from("HOME", ""); place.as_nobody() },
        says: &["no state folder", "$HOME", "--state-dir"] },
    Case { what: "a folder that is in use", programs: BOTH, code: UNAVAILABLE,
        arrange: |place| { place.start()?; Ok(()) },
        says: &["another firstmile-", "{state}", "--state-dir"] },
    Case { what: "a disk without room", programs: BOTH, code: IO,
        arrange: |place| { place.make_state()?; place.mount("size=64k")?; fill(place.state()) },
        says: &["{state}", "room"] },
    Case { what: "a disk that can only be read", programs: BOTH, code: IO,
        arrange: |place| { place.make_state()?; place.mount("size=64k")?; place.mount_again("ro") },
        says: &["{state}", "can only be read"] },
    Case { what: "a key file that others can read", programs: BOTH, code: CONFIG,
        arrange: |place| { place.use_once()?; place.chmod("identity.pem", 0o644) },
        says: &["{state}/identity.pem", "read by others", "chmod 600"] },
    Case { what: "a key file without a key", programs: BOTH, code: CONFIG,
        arrange: |place| { place.use_once()?; place.overwrite("identity.pem", b"-----BEGIN") },
        says: &["{state}/identity.pem", "private key", "restore it"] },
    Case { what: "an empty key file", programs: BOTH, code: CONFIG,
        arrange: |place| { place.use_once()?; place.overwrite("identity.pem", b"") },
        says: &["{state}/identity.pem", "private key", "restore it"] },
    Case { what: "a folder for a key file", programs: BOTH, code: IO,
        arrange: |place| { place.use_once()?; place.replace_by_folder("identity.pem") },
        says: &["{state}/identity.pem", "folder is in its place"] },
    Case { what: "another user's key file", programs: BOTH, code: IO,
        arrange: |place| { place.make_state()?; place.overwrite("identity.pem", b"")?; place.give_folder_away()?; place.as_nobody() },
        says: &["{state}/identity.pem", "ermission denied", "let the user"] },
    Case { what: "another user's lock", programs: BOTH, code: IO,
        arrange: |place| { place.make_state()?; place.overwrite("lock", b"")?; place.give_folder_away()?; place.as_nobody() },
        says: &["{state}/lock", "ermission denied", "let the user"] },
    Case { what: "a database of noise", programs: &[Relay], code: IO,
        arrange: |place| { place.use_once()?; place.overwrite("relay.sqlite", &[0xa5; 5_000]) },
        says: &["{state}/relay.sqlite", "not a database", "restore a backup"] },
    Case { what: "half a database", programs: &[Relay], code: IO,
        arrange: |place| { place.use_once()?; place.truncate("relay.sqlite", 3_000) },
        says: &["{state}/relay.sqlite", "malformed", "restore a backup"] },
    Case { what: "a later version's database", programs: &[Relay], code: CONFIG,
        arrange: |place| { place.use_once()?; place.set_schema(1_000) },
        says: &["{state}/relay.sqlite", "later version", "1000", "install that version"] },
    Case { what: "a folder for a database", programs: &[Relay], code: IO,
        arrange: |place| { place.use_once()?; place.replace_by_folder("relay.sqlite") },
        says: &["{state}/relay.sqlite", "open", "let the user"] },
    Case { what: "another user's database", programs: &[Relay], code: IO,
        arrange: |place| { place.make_state()?; place.overwrite("relay.sqlite", b"")?; place.give_folder_away()?; place.as_nobody() },
        says: &["{state}/relay.sqlite", "open", "let the user"] },
    Case { what: "a folder for the key of the resets", programs: &[Relay], code: IO,
        arrange: |place| { place.use_once()?; place.replace_by_folder("reset.key") },
        says: &["{state}/reset.key", "folder is in its place"] },
    Case { what: "lines that are no TOML", programs: &[Connector], code: CONFIG,
        arrange: |place| { place.use_once()?; place.overwrite("lines.toml", b"[[line\nname = 'A'\n") },
        says: &["{state}/lines.toml", "not valid TOML", "line 1"] },
    Case { what: "a line with an unknown setting", programs: &[Connector], code: CONFIG,
        arrange: |place| { place.use_once()?; place.overwrite("lines.toml", b"[[line]]\nname = 'A'\ndealy = 'fast'\n") },
        says: &["{state}/lines.toml", "line \"A\"", "dealy", "delay"] },
    Case { what: "two lines with one key", programs: &[Connector], code: CONFIG,
        arrange: |place| { place.use_once()?; place.overwrite("lines.toml", b"[[line]]\nname = 'A'\nkey = 'abcdefgh12'\n[[line]]\nname = 'B'\nkey = 'ABCD-EFGH-12'\n") },
        says: &["{state}/lines.toml", "line \"B\"", "that of line \"A\"", "each line needs its own"] },
    Case { what: "a line without a name", programs: &[Connector], code: CONFIG,
        arrange: |place| { place.use_once()?; place.overwrite("lines.toml", b"[[line]]\nkey = 'abcdefgh12'\n") },
        says: &["{state}/lines.toml", "no name", "name = \"Camera 1\""] },
    Case { what: "lines that are no text", programs: &[Connector], code: IO,
        arrange: |place| { place.use_once()?; place.overwrite("lines.toml", &[0xff; 100]) },
        says: &["{state}/lines.toml", "UTF-8", "restore it"] },
    Case { what: "a folder for the lines", programs: &[Connector], code: IO,
        arrange: |place| { place.use_once()?; place.replace_by_folder("lines.toml") },
        says: &["{state}/lines.toml", "folder is in its place"] },
    Case { what: "another user's lines", programs: &[Connector], code: IO,
        arrange: |place| { place.make_state()?; place.overwrite("lines.toml", b"")?; place.give_folder_away()?; place.as_nobody() },
        says: &["{state}/lines.toml", "ermission denied", "let the user"] },
    Case { what: "relays that are no list", programs: &[Connector], code: CONFIG,
        arrange: |place| { place.use_once()?; place.overwrite("relays.json", b"{\"relays\":[{}]}") },
        says: &["{state}/relays.json", "restore it", "join again"] },
    Case { what: "no room for an answer", programs: BOTH, code: IO,
        arrange: |place| { place.arguments(&["check-config"]); place.answer_to("/dev/full") },
        says: &["No space left", "room"] },
    Case { what: "a command that there is not", programs: BOTH, code: USAGE,
        arrange: |place| { place.arguments(&["lines"]); Ok(()) },
        says: &["lines", "--help"] },
];

fn check(cases: &[Case]) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for case in cases {
        for which in case.programs {
            let mut place = Place::new(*which)?;
            if let Err(error) = (case.arrange)(&mut place) {
                if is_skipped(case.what, &error) {
                    continue;
                }
                return Err(error.context(case.what));
            }
            if let Err(error) = place.fails(case.code, case.says) {
                wrong.push(format!("{} ({which:?}): {error}", case.what));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn a_configuration_that_allows_no_start_is_named_with_a_remedy() -> anyhow::Result<()> {
    check(CONFIGURATIONS)
}

#[test]
fn a_state_folder_that_allows_no_start_is_named_with_a_remedy() -> anyhow::Result<()> {
    check(STATES)
}

/// What was left by a kill, lost or replaced, and is of no consequence.
#[test]
fn what_a_program_can_make_anew_does_not_stop_its_start() -> anyhow::Result<()> {
    for which in BOTH {
        let mut place = Place::new(*which)?;
        place.use_once()?;
        // A process that is long gone; half of what it was writing; a socket that nobody listens on.
        place.overwrite("run.json", b"{\"pid\":1,\"http\":\"127.0.0.1:1\"}")?;
        place.overwrite("lines.toml.new", b"[[li")?;
        place.overwrite("reset.key", &[0xff; 40])?;
        place.overwrite("lines.json", b"{")?;
        place.start()?;
        let run: Value = serde_json::from_slice(&fs::read(place.state().join("run.json"))?)?;
        assert_ne!(run["pid"], 1);
        assert!(!place.state().join("lines.toml.new").exists());
        assert_eq!(place.stop()?, Some(0), "{which:?}: {}", place.log()?);
        assert!(!place.state().join("run.json").exists());
    }
    Ok(())
}

/// A folder reached through a link is as good as any other.
#[test]
fn a_state_folder_may_be_a_link_to_one() -> anyhow::Result<()> {
    for which in BOTH {
        let mut place = Place::new(*which)?;
        place.make_state()?;
        let real = place.state().with_file_name("real");
        fs::rename(place.state(), &real)?;
        symlink(&real, place.state())?;
        place.start()?;
        assert!(real.join("run.json").exists());
        assert_eq!(place.stop()?, Some(0));
    }
    Ok(())
}

#[test]
fn a_killed_programs_run_file_is_not_taken_for_a_running_one() -> anyhow::Result<()> {
    for which in BOTH {
        let mut place = Place::new(*which)?;
        place.start()?;
        place.kill()?;
        assert!(
            place.state().join("run.json").exists(),
            "it had no time to tidy up"
        );
        place.arguments(&["status"]);
        place.fails(UNAVAILABLE, &["does not run", "{state}"])?;
    }
    Ok(())
}

/// The page is not what a studio is for.
#[test]
fn a_connector_whose_page_has_no_port_warns_and_goes_on() -> anyhow::Result<()> {
    if !is_private_machine() {
        return Ok(());
    }
    let mut place = Place::new(Connector)?;
    let taken = TcpListener::bind("127.0.0.1:8090")?;
    place.unset("HTTP__LISTEN");
    place.start()?;
    let log = place.log()?;
    let warning = log
        .lines()
        .find(|line| line.contains("127.0.0.1:8090"))
        .unwrap_or_default();
    assert!(
        warning.contains("WARN") && warning.contains("http.listen") && warning.contains("in use"),
        "{log}"
    );
    drop(taken);
    wait_for("the page", Duration::from_secs(15), || {
        let run: Value = serde_json::from_slice(&fs::read(place.state().join("run.json"))?)?;
        Ok(if run["http"] == "127.0.0.1:8090" {
            Ok(())
        } else {
            Err(run)
        })
    })?;
    assert_eq!(place.stop()?, Some(0), "{}", place.log()?);
    Ok(())
}

/// The disk fills up in the middle of a show.
#[test]
fn a_disk_that_fills_up_costs_changes_and_no_feed() -> anyhow::Result<()> {
    if !is_private_machine() || !can_run(&[Need::Ffmpeg]) {
        return Ok(());
    }
    let mut disks = Vec::new();
    let show = Show::start_prepared(&[], |folder| {
        for name in ["relay", "connector-truck1"] {
            let disk = folder.join(name);
            fs::create_dir(&disk)?;
            disks.push(mount(&disk, "size=1m,mode=0700")?);
        }
        Ok(())
    })?;
    let studio = show.joined("truck1", OutputKind::Null)?;
    let line = show.add_line("truck1", &studio, "Camera 1", None)?;
    let small = EncoderSettings {
        size: (640, 360),
        ..EncoderSettings::default()
    };
    let _encoder = Encoder::start(show.folder(), "camera", &line.url, &small)?;
    studio.wait_line("Camera 1", "live")?;
    let file = studio.program().state().join("lines.toml");
    let text = fs::read_to_string(&file)?;
    let units = |what: &str| {
        studio
            .line("Camera 1")
            .map(|line| line["video"][what].as_u64())
    };
    let faults = || {
        anyhow::Ok((
            units("late_total")?,
            units("dropped_total")?,
            units("lost_total")?,
        ))
    };
    let faults_before = faults()?;

    for program in [show.relay(), studio.program()] {
        fill(program.state())?;
    }
    // (program, what is asked of it)
    for (program, arguments) in [
        (
            show.relay(),
            &["invite", "truck2", "--address", "127.0.0.1"][..],
        ),
        (studio.program(), &["line", "add", "Camera 2"]),
        (studio.program(), &["line", "set", "Camera 1", "delay=safe"]),
        (studio.program(), &["line", "remove", "Camera 1"]),
    ] {
        let refused = program.command(arguments, "")?;
        assert_eq!(
            (refused.code, refused.stdout.as_str()),
            (Some(IO), ""),
            "{refused:?}"
        );
        assert!(refused.stderr.contains("room"), "{refused:?}");
        assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
    }
    assert_eq!(fs::read_to_string(&file)?, text, "nothing is half-written");
    for program in [show.relay(), studio.program()] {
        for entry in fs::read_dir(program.state())? {
            let name = entry?.file_name();
            assert!(
                !name.to_string_lossy().ends_with(".new"),
                "{}",
                name.display()
            );
        }
    }
    let before = units("units_total")?;
    wait_for("two more seconds of pictures", PATIENCE, || {
        let now = units("units_total")?;
        Ok(if now > before.map(|units| units + 60) {
            Ok(())
        } else {
            Err(now.into())
        })
    })?;
    assert_eq!(faults()?, faults_before);
    assert_eq!(studio.line("Camera 1")?["state"], "live");

    // Somebody makes room, and everything goes on by itself.
    for program in [show.relay(), studio.program()] {
        fs::remove_file(program.state().join("fills-the-disk"))?;
    }
    show.add_line("truck1", &studio, "Camera 2", None)?;
    show.invite("truck2", &[])?;
    Ok(())
}
