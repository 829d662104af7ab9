//! Keys and tokens appear where they are asked for and nowhere else: a whole show with everything logged, then a search.

use std::fs;

use firstmile_tests::harness::{
    Encoder, EncoderSettings, Need, OutputKind, Show, can_run, http_get,
};

/// The secrets of the show, in every spelling that would give them away.
struct Secrets(Vec<String>);

impl Secrets {
    fn add(&mut self, secret: &str) {
        let plain: String = secret.chars().filter(char::is_ascii_alphanumeric).collect();
        for spelling in [secret, &plain] {
            self.0.push(spelling.to_lowercase());
        }
    }

    /// # Panics
    /// When one of them is in `text`.
    fn assert_absent(&self, place: &str, text: &str) {
        let text = text.to_lowercase();
        for secret in &self.0 {
            assert!(!text.contains(secret), "{secret:?} is in {place}:\n{text}");
        }
    }
}

#[test]
fn no_key_and_no_token_appears_in_anything_that_is_logged_shown_or_counted() -> anyhow::Result<()> {
    if !can_run(&[Need::Ffmpeg]) {
        return Ok(());
    }
    let mut secrets = Secrets(Vec::new());
    let show = Show::start_verbose()?;
    let token = show.invite("truck1", &[])?;
    secrets.add(&token);
    let studio = show.connector("studio", OutputKind::Null)?;
    studio.join(&token)?.success()?;
    studio.wait_connected()?;
    let generated = show.add_line("truck1", &studio, "Camera 1", None)?;
    secrets.add(&generated.key);
    let own = show.add_line("truck1", &studio, "Camera 2", Some("Our-Own.Key~2026"))?;
    secrets.add(&own.key);

    // Errors: a used token, a mangled one, a key that fits nothing.
    let other = show.connector("other", OutputKind::Null)?;
    let mut told = Vec::new();
    for token in [token.clone(), token[..token.len() - 4].to_owned()] {
        let refused = other.join(&token)?;
        told.push((refused.command, refused.stdout + &refused.stderr));
    }
    let wrong_key = "wrong-KEY-4711-abcd";
    secrets.add(wrong_key);
    let quick = EncoderSettings {
        size: (640, 360),
        ..EncoderSettings::default()
    };
    let wrong_url = generated.url.replace(
        generated.url.rsplit('/').next().unwrap_or_default(),
        wrong_key,
    );
    let mut refused = Encoder::start(show.folder(), "wrong", &wrong_url, &quick)?;
    refused.wait(firstmile_tests::harness::PATIENCE)?;

    // And what goes right, live, while everything is asked.
    let _first = Encoder::start(show.folder(), "first", &generated.url, &quick)?;
    let _second = Encoder::start(show.folder(), "second", &own.url, &quick)?;
    studio.wait_line("Camera 1", "live")?;
    studio.wait_line("Camera 2", "live")?;
    for arguments in [
        &["status", "--json"][..],
        &["studios", "--json"],
        &["publishers", "--json"],
        &["publishers"],
        &["connectors", "--json"],
    ] {
        let asked = show.relay().command(arguments, "")?;
        told.push((asked.command.clone(), asked.success()?));
    }
    for arguments in [&["status", "--json"][..], &["status"]] {
        let asked = studio.program().command(arguments, "")?;
        told.push((asked.command.clone(), asked.success()?));
    }
    for (program, paths) in [
        (show.relay(), &["/metrics", "/livez", "/readyz"][..]),
        (studio.program(), &["/metrics", "/api/v1/status"]),
    ] {
        let address = program.address("http")?;
        for path in paths {
            told.push(((*path).to_owned(), http_get(address, path)?));
        }
    }
    for program in [show.relay(), studio.program(), other.program()] {
        let pid = program.pid().unwrap_or_default();
        told.push((
            "a command line".into(),
            fs::read_to_string(format!("/proc/{pid}/cmdline"))?,
        ));
        told.push((
            format!("the log of {}", program.state().display()),
            program.log()?,
        ));
    }
    for (place, text) in &told {
        secrets.assert_absent(place, text);
    }
    assert!(
        told.iter().any(|(_, text)| text.contains("Camera 1")),
        "the search looks at the right texts"
    );

    // The relay keeps no key at all, not even on its disk.
    for entry in fs::read_dir(show.relay().state())? {
        let path = entry?.path();
        if path.is_file() {
            let bytes = fs::read(&path)?;
            secrets.assert_absent(
                &path.display().to_string(),
                &String::from_utf8_lossy(&bytes),
            );
        }
    }
    Ok(())
}
