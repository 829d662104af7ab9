use super::*;
use crate::{
    decode::Decoders,
    lines::Delay,
    output::{OutputKind, Outputs},
};

fn event(n: usize) -> Event {
    Event::new(Kind::FeedEnded, format!("event {n}")).line("Camera 1")
}

#[test]
fn what_happened_is_known_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let events = Events::open(folder.path());
    events.note(event(1));
    events.write().unwrap();
    events.note(event(2));
    events.note(event(3));
    events.write().unwrap();
    events.write().unwrap();

    let path = folder.path().join(FILE);
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"at\":\"2026-11-21T04:30:00Z\",\"kind\":\"fee")
        .unwrap();
    let later = Events::open(folder.path());
    let texts: Vec<_> = later.list().into_iter().map(|event| event.text).collect();
    assert_eq!(texts, ["event 1", "event 2", "event 3"]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn files_and_memory_are_bounded_and_the_newest_stay() {
    let folder = tempfile::tempdir().unwrap();
    let events = Events::open(folder.path());
    let long = "x".repeat(TEXT_CHARS_MAX);
    let count = 3 * usize::try_from(FILE_LEN_MAX).unwrap() / TEXT_CHARS_MAX;
    for n in 0..count {
        events.note(Event::new(Kind::Held, format!("{n} {long}")));
        if n % 100 == 0 {
            events.write().unwrap();
        }
    }
    events.write().unwrap();
    assert_eq!(events.list().len(), NEWEST_MAX);
    let mut total = 0;
    for name in [FILE, OLD_FILE] {
        let len = fs::metadata(folder.path().join(name)).unwrap().len();
        assert!(len <= FILE_LEN_MAX, "{name} has {len} bytes");
        total += len;
    }
    assert!(total > FILE_LEN_MAX, "one rotation is kept");
    let newest = Events::open(folder.path()).list();
    let last = format!("{} x", count - 1);
    assert!(newest.last().unwrap().text.starts_with(&last));
}

#[test]
fn a_later_versions_events_are_kept_as_text() {
    let json = r#"{"at":"2026-11-21T04:30:00Z","kind":"teleported","line":null,"relay":null,"text":"it moved","x":1}"#;
    let event: Event = serde_json::from_str(json).unwrap();
    assert_eq!((event.kind, event.text.as_str()), (Kind::Other, "it moved"));
    let hostile = Event::new(Kind::Held, "a\u{1b}[31m\nb");
    assert_eq!(hostile.text, "a[31mb");
}

#[tokio::test]
async fn lines_that_come_and_go_are_noted_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let lines = Lines::open_to_play(
        folder.path(),
        Delay::Normal,
        Outputs::null_only(),
        OutputKind::Null,
        Decoders::default(),
    )
    .unwrap();
    let events = Events::open(folder.path());
    let shutdown = CancellationToken::new();
    let script = async {
        time::sleep(Duration::from_millis(50)).await;
        lines.add("Camera 1", None).unwrap();
        let seen = |kind: Kind| events.list().iter().any(|event| event.kind == kind);
        let waited = time::timeout(Duration::from_secs(10), async {
            while !seen(Kind::LineAdded) {
                time::sleep(Duration::from_millis(10)).await;
            }
            lines.remove("Camera 1").unwrap();
        });
        waited.await.unwrap();
        shutdown.cancel();
    };
    let (ran, ()) = tokio::join!(events.run(&lines, shutdown.clone()), script);
    ran.unwrap();
    let kinds: Vec<_> = (Events::open(folder.path()).list().into_iter())
        .map(|event| (event.kind, event.line))
        .collect();
    let name = Some("Camera 1".to_owned());
    assert_eq!(
        kinds,
        [
            (Kind::Started, None),
            (Kind::LineAdded, name.clone()),
            (Kind::LineRemoved, name)
        ]
    );
}
