use proptest::prelude::*;

use super::*;

const TWO: &str = r#"# The truck's cameras.

[[line]]
id = 1
name = "Camera 1" # the jib
key = "7k2m-x9qd-h4tp"

# Spare phone
[[line]]
id = 4
name = "Phone"
key = "correct.horse.7"
delay = 750 # asked for by Ann
"#;

#[test]
fn lines_are_read_with_their_settings() {
    let file = LinesFile::parse(TWO).unwrap();
    let shown: Vec<_> = file
        .entries()
        .iter()
        .map(|entry| {
            (
                entry.id,
                entry.name.as_str(),
                entry.settings.get("delay").unwrap(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            (Some(1), "Camera 1", "studio".to_owned()),
            (Some(4), "Phone", "750".to_owned())
        ]
    );
}

#[test]
fn comments_and_order_survive_every_edit() {
    let mut file = LinesFile::parse(TWO).unwrap();
    let mut phone = file.entries()[1].clone();
    phone.settings.set("delay", "safe").unwrap();
    phone.settings.set("record", "on").unwrap();
    file.replace([(1, &phone)]).unwrap();
    file.add([&Entry {
        id: Some(5),
        name: "Drone".into(),
        key: Some(StreamKey::parse("another.key.9").unwrap()),
        enabled: false,
        settings: Settings::default(),
    }])
    .unwrap();
    assert_eq!(
        file.to_string(),
        r#"# The truck's cameras.

[[line]]
id = 1
name = "Camera 1" # the jib
key = "7k2m-x9qd-h4tp"

# Spare phone
[[line]]
id = 4
name = "Phone"
key = "correct.horse.7"
delay = "safe" # asked for by Ann
record = "on"

[[line]]
id = 5
name = "Drone"
key = "another.key.9"
enabled = false
"#
    );
    file.remove(1).unwrap();
    assert!(
        file.to_string().starts_with("# The truck's cameras.\n"),
        "{file}"
    );
    assert_eq!(file.entries().len(), 2);
}

#[test]
fn a_setting_back_at_its_default_leaves_the_file() {
    let mut file = LinesFile::parse(TWO).unwrap();
    let mut phone = file.entries()[1].clone();
    phone.settings.set("delay", "studio").unwrap();
    file.replace([(1, &phone)]).unwrap();
    assert!(!file.to_string().contains("delay"), "{file}");
}

#[test]
fn a_person_may_write_a_name_only() {
    let file = LinesFile::parse("[[line]]\nname = 'Camera 9'\n").unwrap();
    let entry = &file.entries()[0];
    assert_eq!((entry.id, &entry.key, entry.enabled), (None, &None, true));
}

#[test]
fn there_is_always_a_free_number() {
    // (used, ever given, the next)
    for (used, above, next) in [
        (vec![], 0, 1),
        (vec![3], 0, 4),
        (vec![1, 3], 7, 8),
        (vec![1, 2, u32::MAX], 0, 3),
        (vec![2], u32::MAX, 1),
    ] {
        let ids = used.iter().copied().collect();
        assert_eq!(next_id(&ids, above), next, "{used:?}, {above}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_line_and_never_with_a_key() {
    for (text, message) in [
        (
            "[[line]]\nkey = 'k1k1k1k1'\n",
            "line number 1: it has no name; a line needs at least name = \"Camera 1\"",
        ),
        (
            "[[line]]\nname = ''\n",
            "line number 1: a line's name must not be empty",
        ),
        (
            "[[line]]\nname = 'A'\nkey = 'short'\n",
            "line \"A\": its key was not taken: a key has 8 to 128 characters, this one has 5",
        ),
        (
            "[[line]]\nname = 'A'\n[[line]]\nname = 'a '\n",
            "line \"a\": there is a line \"A\" already; names differ in more than upper and lower case",
        ),
        (
            "[[line]]\nname = 'A'\nkey = 'abcd-efgh'\n[[line]]\nname = 'B'\nkey = 'ABCDEFGH'\n",
            "line \"B\": its key is that of line \"A\"; each line needs its own",
        ),
        (
            "[[line]]\nname = 'A'\nid = 1\n[[line]]\nname = 'B'\nid = 1\n",
            "line \"B\": its id is not a number from 1 to 4294967295 of its own; take the id away and the program gives it one",
        ),
        (
            "[[line]]\nname = 'A'\nenabled = 'maybe'\n",
            "line \"A\": enabled is true or false",
        ),
        (
            "[[line]]\nname = 'A'\nhold = 'long'\n",
            "line \"A\": hold = \"long\" is not forever, or a time up to a day like 500ms, 10s or 5m",
        ),
        (
            "[lines]\n",
            "unknown key \"lines\"; the file consists of [[line]] sections",
        ),
        (
            "line = 1\n",
            "each line is a section of its own that begins with [[line]]",
        ),
    ] {
        assert_eq!(
            LinesFile::parse(text).unwrap_err().to_string(),
            message,
            "{text}"
        );
    }
    let error = LinesFile::parse("[[line]]\nname = 'A'\nkey = hunter2hunter2\n")
        .unwrap_err()
        .to_string();
    assert!(!error.contains("hunter2"), "{error}");
    assert!(error.contains("line 3"), "{error}");
}

#[test]
fn names_are_checked_as_they_will_be_shown() {
    let long = "x".repeat(65);
    for (name, checked) in [
        (" Camera 1 ", Ok("Camera 1")),
        ("Kran süd 📷", Ok("Kran süd 📷")),
        ("", Err(NameError::Empty)),
        ("a\u{1b}[31m", Err(NameError::Control { position: 2 })),
        ("a\u{202e}b", Err(NameError::Control { position: 2 })),
        ("Camera 1\u{200b}", Err(NameError::Control { position: 9 })),
        ("\u{fe0f}", Err(NameError::Empty)),
        (long.as_str(), Err(NameError::TooLong { len: 65 })),
    ] {
        assert_eq!(check_name(name), checked.map(str::to_owned), "{name:?}");
    }
}

proptest! {
    /// Whatever a person types, it is taken or refused; what is taken can be edited and read again.
    #[test]
    fn arbitrary_text_never_panics(text in "(\\[\\[line\\]\\]\n|name = \"[a-c]\"\n|delay = [0-9]{1,4}\n|# c\n|line|[=\"'\\[\\]{}]|.){0,20}") {
        if let Ok(mut file) = LinesFile::parse(&text) {
            prop_assert_eq!(file.to_string(), text.replace("\r\n", "\n"));
            for index in 0..file.entries().len() {
                let mut entry = file.entries()[index].clone();
                entry.settings.set("track", "3").unwrap();
                file.replace([(index, &entry)]).unwrap();
                prop_assert_eq!(&file.entries()[index], &entry);
            }
            let again = LinesFile::parse(&file.to_string()).unwrap();
            prop_assert_eq!(again.entries(), file.entries());
        }
    }
}
