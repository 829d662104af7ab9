use std::fs;

use super::*;

fn open(folder: &Path) -> Lines {
    Lines::open(folder, Delay::Normal).unwrap()
}

fn names(lines: &Lines) -> Vec<(u32, String)> {
    let set = lines.set();
    set.lines
        .iter()
        .map(|line| (line.id, line.name.clone()))
        .collect()
}

fn error_of(lines: &Lines) -> String {
    lines.reread();
    lines.refused_edit().unwrap()
}

#[test]
fn lines_outlive_the_program_and_ids_are_never_given_twice() {
    let folder = tempfile::tempdir().unwrap();
    let lines = open(folder.path());
    let first = lines.add("Camera 1", None).unwrap();
    lines.add("Camera 2", None).unwrap();
    lines.remove("camera 2").unwrap();
    let generation = lines.set().generation;
    drop(lines);

    let lines = open(folder.path());
    assert!(lines.set().generation > generation);
    lines.add("Camera 3", None).unwrap();
    assert_eq!(
        names(&lines),
        [(1, "Camera 1".into()), (3, "Camera 3".into())]
    );
    assert_eq!(lines.find("CAMERA 1").unwrap().key, first.key);
}

#[test]
fn every_change_is_a_later_generation_and_no_change_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let lines = open(folder.path());
    let mut watch = lines.watch();
    let mut last = lines.set().generation;
    let pair = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
    let changes: [&dyn Fn(); 4] = [
        &|| drop(lines.add("Camera 1", None).unwrap()),
        &|| drop(lines.configure("Camera 1", &pair("delay", "safe")).unwrap()),
        &|| drop(lines.enable("Camera 1", false).unwrap()),
        &|| drop(lines.remove("Camera 1").unwrap()),
    ];
    for change in changes {
        change();
        assert!(watch.has_changed().unwrap());
        let generation = watch.borrow_and_update().generation;
        assert!(generation > last);
        last = generation;
    }
    lines.add("Camera 1", None).unwrap();
    watch.mark_unchanged();
    lines.enable("Camera 1", true).unwrap();
    lines.reread();
    assert!(!watch.has_changed().unwrap());
}

#[test]
fn an_edit_by_hand_is_taken_over_and_completed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines.toml");
    let lines = open(folder.path());
    let first = lines.add("Camera 1", None).unwrap();

    let text = fs::read_to_string(&file).unwrap();
    fs::write(
        &file,
        format!("{text}\n# the drone\n[[line]]\nname = 'Drone' # new\ndelay = 100\n"),
    )
    .unwrap();
    lines.reread();

    assert_eq!(names(&lines), [(1, "Camera 1".into()), (2, "Drone".into())]);
    let drone = lines.find("drone").unwrap();
    assert_eq!(drone.delay_ms, 100);
    assert_eq!(
        lines.find("Camera 1").unwrap(),
        first,
        "the other line is as it was"
    );
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("# the drone\n[[line]]\nname = 'Drone' # new\n"),
        "{text}"
    );
    assert!(
        text.contains(drone.key.expose()),
        "the key made for it is in the file"
    );
}

#[test]
fn a_line_whose_id_or_key_was_lost_by_hand_keeps_both() {
    let folder = tempfile::tempdir().unwrap();
    let lines = open(folder.path());
    let before = lines.add("Camera 1", None).unwrap();
    fs::write(
        folder.path().join("lines.toml"),
        "[[line]]\nname = \"camera 1\"\nhold = 'forever'\n",
    )
    .unwrap();
    lines.reread();
    let after = lines.find("Camera 1").unwrap();
    assert_eq!((after.id, &after.key), (before.id, &before.key));
}

#[test]
fn a_broken_edit_is_refused_as_a_whole_and_named_until_it_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines.toml");
    let lines = open(folder.path());
    lines.add("Camera 1", None).unwrap();
    let good = fs::read_to_string(&file).unwrap();
    let before = lines.set();

    // (what was typed at the end, what the operator reads)
    for (typed, named) in [
        (
            "[[line]]\nname = 'Camera 2'\ndelay = 'slow'\n",
            "line \"Camera 2\": delay = \"slow\" is not",
        ),
        ("[[line]\n", "not valid TOML"),
        (
            "[[line]]\nname = 'CAMERA 1'\n",
            "there is a line \"Camera 1\" already",
        ),
    ] {
        fs::write(&file, format!("{good}{typed}")).unwrap();
        let error = error_of(&lines);
        assert!(error.contains(named), "{error}");
        assert!(
            error.contains("lines.toml") && error.ends_with("the running lines stay"),
            "{error}"
        );
        assert_eq!(lines.set(), before);
        let error = lines.add("Camera 9", None).unwrap_err().to_string();
        assert!(
            error.contains(named),
            "a change must not overwrite what was typed: {error}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{good}{typed}"));
    }

    fs::write(&file, &good).unwrap();
    lines.reread();
    assert_eq!(lines.refused_edit(), None);
    assert_eq!(lines.set(), before);

    fs::write(&file, format!("{good}[[line]\n")).unwrap();
    lines.add("Camera 9", None).unwrap_err();
    assert!(
        error_of(&lines).contains("not valid TOML"),
        "it is named also when a change met it first"
    );
}

#[test]
fn a_deleted_file_comes_back_and_the_lines_stay() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines.toml");
    let lines = open(folder.path());
    lines.add("Camera 1", None).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    for _ in 0..3 {
        assert_eq!(names(&lines).len(), 1);
        lines.reread();
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

/// What an editor leaves that finds the disk full after it has truncated the file.
#[test]
fn an_emptied_file_comes_back_and_the_lines_stay() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines.toml");
    let lines = open(folder.path());
    lines.add("Camera 1", None).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, "\n").unwrap();
    for _ in 0..3 {
        assert_eq!(names(&lines).len(), 1);
        lines.reread();
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), text);

    fs::write(&file, "").unwrap();
    lines.add("Camera 2", None).unwrap();
    assert_eq!(names(&lines).len(), 2, "and no change makes it true");
    lines.remove("Camera 1").unwrap();
    lines.remove("Camera 2").unwrap();
    fs::write(&file, "# none today\n").unwrap();
    lines.reread();
    assert_eq!(names(&lines), []);
    assert_eq!(lines.refused_edit(), None);
}

#[test]
fn what_is_wrong_with_a_change_is_said_and_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let lines = open(folder.path());
    lines
        .add("Camera 1", Some(StreamKey::parse("own.key.2026").unwrap()))
        .unwrap();
    let before = lines.set();
    let set = |key: &str, value: &str| {
        let pairs = [
            ("delay".to_owned(), "fast".to_owned()),
            (key.to_owned(), value.to_owned()),
        ];
        lines.configure("Camera 1", &pairs).unwrap_err()
    };
    let long = "x".repeat(65);
    // (error, its sentence)
    for (error, sentence) in [
        (
            lines.add("camera 1", None).unwrap_err(),
            "line \"camera 1\": there is a line \"Camera 1\" already; names differ in more than upper and lower case",
        ),
        (
            lines.add(" ", None).unwrap_err(),
            "a line's name must not be empty",
        ),
        (
            lines.add(&long, None).unwrap_err(),
            "a line's name has at most 64 characters, this one has 65",
        ),
        (
            lines
                .add("B", Some(StreamKey::parse("OWN.KEY.2026").unwrap()))
                .unwrap_err(),
            "line \"B\": its key is that of line \"Camera 1\"; each line needs its own",
        ),
        (
            lines.remove("Camera 7").unwrap_err(),
            "there is no line \"Camera 7\"; the lines are \"Camera 1\"",
        ),
        (
            set("dealy", "1"),
            "unknown setting \"dealy\"; the settings of a line are delay, lag, max_lag, format, decoder, hold, slate, audio_trim_ms, takeover, track, record",
        ),
        (
            set("takeover", "maybe"),
            "takeover = \"maybe\" is not smart, always or never",
        ),
    ] {
        assert_eq!(error.to_string(), sentence);
        assert_eq!(Failure::from(error).code, ExitCode::Usage);
    }
    assert_eq!(lines.set(), before, "all settings or none");
}

/// An editor that truncates the file and then writes it must not end the lines in between, nor lose the edit.
#[test]
fn half_an_edit_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let lines = open(folder.path());
    lines.add("Camera 1", None).unwrap();
    let path = folder.path().join("lines.toml");
    let before = fs::read_to_string(&path).unwrap();
    let mut file = fs::File::create(&path).unwrap();
    let reader = {
        let lines = lines.clone();
        std::thread::spawn(move || lines.reread())
    };
    // While the look is on its way: longer than the look needs to begin, shorter than it waits.
    std::thread::sleep(Duration::from_millis(20));
    std::io::Write::write_all(&mut file, format!("{before}# an edit\n").as_bytes()).unwrap();
    reader.join().unwrap();
    assert_eq!(lines.set().lines.len(), 1);
    lines.reread();
    assert_eq!(lines.set().lines.len(), 1);
    assert!(fs::read_to_string(&path).unwrap().ends_with("# an edit\n"));
}

#[cfg(unix)]
#[test]
fn the_files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).add("Camera 1", None).unwrap();
    for name in ["lines.toml", "lines.json"] {
        let mode = fs::metadata(folder.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    // Also after an editor that does not care.
    let file = folder.path().join("lines.toml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    open(folder.path());
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn running_lines_follow_the_file_and_end_with_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let lines = Lines::open_to_play(
        folder.path(),
        Delay::Fast,
        Outputs::null_only(),
        OutputKind::Null,
        Decoders::default(),
    )
    .unwrap();
    lines.add("Camera 1", None).unwrap();
    let shutdown = CancellationToken::new();
    let run = lines.run(shutdown.clone());
    let check = async {
        while lines.handle(1).is_none() {
            task::yield_now().await;
        }
        let text = "[[line]]\nid = 1\nname = 'Camera 1'\nenabled = false\n[[line]]\nname = 'Camera 2'\ndelay = 250\n";
        fs::write(folder.path().join("lines.toml"), text).unwrap();
        while lines.handle(1).is_some() || lines.handle(2).is_none() {
            task::yield_now().await;
        }
        let snapshots = lines.snapshots();
        let shown: Vec<_> = snapshots
            .iter()
            .map(|(id, line)| (*id, line.name.as_str(), line.delay_ms))
            .collect();
        assert_eq!(shown, [(1, "Camera 1", 300), (2, "Camera 2", 250)]);
        assert_eq!(snapshots[0].1.reason.as_deref(), Some("switched off"));
        shutdown.cancel();
    };
    let (ended, ()) = tokio::join!(run, check);
    ended.unwrap();
    assert!(lines.handle(2).is_none());
}

#[test]
fn a_file_full_of_names_is_completed_at_once_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let line = |n| format!("[[line]]\nname = \"Camera {n}\"\n");
    let text = (1..=256).map(line).collect::<Vec<_>>().concat();
    fs::write(folder.path().join("lines.toml"), text).unwrap();
    let started = std::time::Instant::now();
    let lines = open(folder.path());
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "it took {:?}, and no source is there before",
        started.elapsed()
    );
    let names = names(&lines);
    assert_eq!(names.len(), 256);
    assert_eq!(names[255], (256, "Camera 256".into()));
}

#[test]
fn a_person_who_writes_the_highest_number_can_still_add_lines() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines.toml");
    fs::write(&file, "[[line]]\nid = 4294967295\nname = \"Crane\"\n").unwrap();
    let lines = open(folder.path());
    lines.add("Camera 1", None).unwrap();
    lines.add("Camera 2", None).unwrap();
    drop(lines);
    let mut text = fs::read_to_string(&file).unwrap();
    text.push_str("[[line]]\nname = \"Camera 3\"\n[[line]]\nname = \"Camera 4\"\n");
    fs::write(&file, text).unwrap();
    let ids: Vec<_> = names(&open(folder.path()))
        .iter()
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(ids, [u32::MAX, 1, 2, 3, 4]);
}
