//! Keys and tokens appear where they are asked for and nowhere else: a whole show with everything logged, then a search. What is
//! kept is in exactly the files that SECURITY.md names, for their owner only.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use firstmile_shared::token::JoinToken;
use firstmile_tests::{
    encoder::SyntheticEncoder,
    harness::{Encoder, EncoderSettings, Need, OutputKind, PATIENCE, Show, can_run, http_get},
};

/// What must not be seen, and the files that it is kept in.
struct Canary {
    what: &'static str,
    /// In small letters: every way in which it would be given away.
    spellings: Vec<String>,
    places: BTreeSet<PathBuf>,
}

#[derive(Default)]
struct Canaries(Vec<Canary>);

impl Canaries {
    fn add<const N: usize>(&mut self, what: &'static str, secret: &str, places: [&Path; N]) {
        let plain: String = secret.chars().filter(char::is_ascii_alphanumeric).collect();
        assert!(plain.len() >= 8, "{what} would be found everywhere");
        self.0.push(Canary {
            what,
            spellings: vec![secret.to_lowercase(), plain.to_lowercase()],
            places: places.iter().map(|path| path.to_path_buf()).collect(),
        });
    }

    /// Those that are in `text`.
    fn found_in(&self, text: &str) -> Vec<&Canary> {
        let text = text.to_lowercase();
        let is_there = |spelling: &String| text.contains(spelling.as_str());
        self.0
            .iter()
            .filter(|canary| canary.spellings.iter().any(is_there))
            .collect()
    }

    /// # Panics
    /// When one of them is in `text`.
    fn assert_absent(&self, place: &str, text: &str) {
        if let Some(canary) = self.found_in(text).first() {
            panic!(
                "{} {:?} is in {place}:\n{text}",
                canary.what, canary.spellings
            );
        }
    }

    /// Each is in the files that it belongs to, all of them private, and in no other below `folders`.
    fn assert_kept_only_in_place(&self, folders: &[&Path]) -> anyhow::Result<()> {
        let mut files = Vec::new();
        for folder in folders {
            list(folder, &mut files)?;
        }
        let mut missing: Vec<(&str, &Path)> = self
            .0
            .iter()
            .flat_map(|canary| {
                canary
                    .places
                    .iter()
                    .map(|path| (canary.what, path.as_path()))
            })
            .collect();
        for file in &files {
            let bytes = fs::read(file)?;
            for canary in self.found_in(&String::from_utf8_lossy(&bytes)) {
                assert!(
                    canary.places.contains(file),
                    "{} is in {}",
                    canary.what,
                    file.display()
                );
                let mode = fs::metadata(file)?.permissions().mode();
                assert_eq!(mode & 0o777, 0o600, "{}", file.display());
                missing.retain(|(what, place)| (*what, *place) != (canary.what, file));
            }
        }
        assert_eq!(missing, [], "of {files:#?}");
        Ok(())
    }
}

/// Where this machine's shared memory is, as files.
const MEMORY: &str = "/dev/shm";

/// All files below a folder, except those that can't be read like one.
fn list(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match fs::symlink_metadata(&path) {
            // Shared memory has no folders: those belong to others who use it as a disk.
            Ok(what) if what.is_dir() && folder == Path::new(MEMORY) => {}
            Ok(what) if what.is_dir() => list(&path, files)?,
            Ok(what) if what.is_file() => files.push(path),
            // Sockets and pipes; what vanished meanwhile.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The secret part of a PEM file: the middle of the private key.
fn private_key(pem: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(pem)?;
    let after = text
        .split_once("PRIVATE KEY-----")
        .context("a private key")?
        .1;
    let line = after.lines().nth(2).context("a third line of it")?;
    Ok(line.to_owned())
}

#[test]
#[expect(clippy::too_many_lines, reason = "one show, in the order of its acts")]
fn no_key_and_no_token_appears_in_anything_that_is_logged_shown_or_counted() -> anyhow::Result<()> {
    if !can_run(&[Need::Ffmpeg]) {
        return Ok(());
    }
    let mut canaries = Canaries::default();
    let show = Show::start_verbose()?;
    let relay_state = show.relay().state().to_owned();
    let token = show.invite("truck1", &[])?;
    let secret = JoinToken::parse(&token)?.secret;
    canaries.add("the join token", &token, []);
    canaries.add("the join token's secret", secret.expose(), []);
    let mut studio = show.connector("studio", OutputKind::Null)?;
    let studio_state = studio.program().state().to_owned();
    studio.join(&token)?.success()?;
    // An operator may leave the token there; what the program starts must not inherit it.
    studio.program_mut().set("FIRSTMILE_JOIN_TOKEN", &token);
    studio.program_mut().stop()?;
    studio.program_mut().restart()?;
    studio.wait_connected()?;
    let lines = studio_state.join("lines.toml");
    let generated = show.add_line("truck1", &studio, "Camera 1", None)?;
    canaries.add("the generated key", &generated.key, [&lines]);
    let own = show.add_line("truck1", &studio, "Camera 2", Some("Our-Own.Key~2026"))?;
    canaries.add("the studio's own key", &own.key, [&lines]);
    for (what, state) in [
        ("the relay's private key", &relay_state),
        ("the connector's private key", &studio_state),
    ] {
        let file = state.join("identity.pem");
        canaries.add(what, &private_key(&file)?, [&file]);
    }
    let reset = relay_state.join("reset.key");
    canaries.add(
        "the key of the resets",
        &fs::read_to_string(&reset)?,
        [&reset],
    );

    // Errors: a used token, a mangled one, one as an argument; keys that fit nothing, that are none, in the wrong place.
    let other = show.connector("other", OutputKind::Null)?;
    let mut told = Vec::new();
    for token in [token.clone(), token[..token.len() - 4].to_owned()] {
        let refused = other.join(&token)?;
        told.push((refused.command, refused.stdout + &refused.stderr));
    }
    let wrong_key = "wrong-KEY-4711-abcd";
    canaries.add("a wrong key", wrong_key, []);
    for (arguments, input) in [
        (&["join", &token][..], ""),
        (
            &["line", "add", "x", "--key-file", "-"],
            "wrong KEY 4711 abcd",
        ),
        (&["line", "set", "Camera 1", "key=wrong-KEY-4711-abcd"], ""),
        (&["line", "add", "x", "--key-file", "-"], own.key.as_str()),
    ] {
        let refused = studio.program().command(arguments, input)?;
        assert_eq!(refused.code, Some(2), "{refused:?}");
        told.push((arguments[0].to_owned(), refused.stdout + &refused.stderr));
    }
    let quick = EncoderSettings {
        size: (640, 360),
        ..EncoderSettings::default()
    };
    let wrong_url = generated.url.replace(
        generated.url.rsplit('/').next().unwrap_or_default(),
        wrong_key,
    );
    let mut refused = Encoder::start(show.folder(), "wrong", &wrong_url, &quick)?;
    refused.wait(PATIENCE)?;
    // The encoder's own log is the encoder's own affair.
    drop(refused);
    fs::remove_file(show.folder().join("wrong.log"))?;
    publish_oddly(&show, &own.key, wrong_key)?;

    // An edit by hand that is no TOML, exactly where a key is.
    let text = fs::read_to_string(&lines)?;
    fs::write(
        &lines,
        text.clone() + "[[line]]\nname = 'x'\nkey = 'wrong-KEY-4711-abcd\n",
    )?;
    let refused = studio.program().command(&["line", "add", "y"], "")?;
    assert_eq!(refused.code, Some(78), "{refused:?}");
    told.push((refused.command, refused.stdout + &refused.stderr));
    let checked = studio.program().command(&["check-config"], "")?;
    told.push((checked.command, checked.stdout + &checked.stderr));
    firstmile_tests::harness::wait_for("the broken edit to be named", PATIENCE, || {
        let status = studio.status()?;
        let notices = status["notices"].to_string();
        told.push(("the notices".into(), notices.clone()));
        Ok(if notices.contains("lines.toml") {
            Ok(())
        } else {
            Err(status)
        })
    })?;
    fs::write(&lines, text)?;

    // And what goes right, live, while everything is asked.
    let _first = Encoder::start(show.folder(), "first", &generated.url, &quick)?;
    let _second = Encoder::start(show.folder(), "second", &own.url, &quick)?;
    studio.wait_line("Camera 1", "live")?;
    studio.wait_line("Camera 2", "live")?;
    for arguments in [
        &["status", "--json"][..],
        &["status"],
        &["studios", "--json"],
        &["publishers", "--json"],
        &["publishers"],
        &["connectors", "--json"],
        &["check-config"],
    ] {
        let asked = show.relay().command(arguments, "")?;
        told.push((asked.command.clone(), asked.success()?));
    }
    for arguments in [&["status", "--json"][..], &["status"], &["check-config"]] {
        let asked = studio.program().command(arguments, "")?;
        told.push((asked.command.clone(), asked.success()?));
    }
    for (program, paths) in [
        (
            show.relay(),
            &[
                "/metrics",
                "/livez",
                "/readyz",
                "/api/v1/status",
                "/api/v1/studios",
                "/api/v1/publishers",
                "/api/v1/connectors",
                "/nothing",
            ][..],
        ),
        (
            studio.program(),
            // The last answers only the page itself, which shows keys to whoever sits there.
            &[
                "/metrics",
                "/",
                "/readyz",
                "/api/v1/status",
                "/api/v1/lines",
            ],
        ),
    ] {
        let address = program.address("http")?;
        for path in paths {
            told.push(((*path).to_owned(), http_get(address, path)?));
        }
    }
    assert!(
        !studio.program().children()?.is_empty(),
        "decoders are processes"
    );
    for program in [show.relay(), studio.program(), other.program()] {
        let pid = program.pid().unwrap_or_default();
        let children = program.children()?;
        for pid in children.iter().map(|child| child.pid).chain([pid]) {
            let read = |what: &str| fs::read(format!("/proc/{pid}/{what}"));
            let line = String::from_utf8_lossy(&read("cmdline")?).into_owned();
            told.push((format!("the command line of {pid}"), line));
        }
        for child in children {
            let environment = fs::read(format!("/proc/{}/environ", child.pid))?;
            let environment = String::from_utf8_lossy(&environment).into_owned();
            told.push((format!("the environment of {child:?}"), environment));
        }
        told.push((
            format!("the log of {}", program.state().display()),
            program.log()?,
        ));
    }
    for (place, text) in &told {
        canaries.assert_absent(place, text);
    }
    assert!(
        told.iter().any(|(_, text)| text.contains("Camera 1")),
        "the search looks at the right texts"
    );
    assert!(show.logs()?.contains("TRACE"), "everything is logged");

    // Files: all of the show's, and what there is in memory.
    let memory = Path::new(MEMORY);
    let folders = [show.folder(), memory];
    let there = if memory.is_dir() { 2 } else { 1 };
    canaries.assert_kept_only_in_place(&folders[..there])?;

    // A clone of the studio is asked for by name, and is its owner's alone.
    let clone = show.folder().join("clone");
    let exported = studio
        .program()
        .command(&["export", &clone.to_string_lossy()], "")?;
    exported.success()?;
    for canary in &mut canaries.0 {
        if canary.places.contains(&lines) {
            canary.places.insert(clone.clone());
        }
    }
    canaries.assert_kept_only_in_place(&folders[..there])
}

/// Keys where encoders put them besides the right place.
fn publish_oddly(show: &Show, key: &str, wrong_key: &str) -> anyhow::Result<()> {
    let rtmp = show.relay().address("rtmp")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        for (app, stream, is_right) in [
            (format!("truck1/{wrong_key}"), String::new(), false),
            ("truck1".to_owned(), format!("?token={wrong_key}"), false),
            (format!("{wrong_key}/truck1"), key.to_owned(), false),
            (format!("truck1/{key}"), String::new(), true),
        ] {
            let mut encoder = SyntheticEncoder::connect(rtmp).await?;
            let answer = encoder.publish(&app, &stream).await;
            assert_eq!(answer.is_ok(), is_right, "{answer:?}");
        }
        Ok(())
    })
}
