//! The store's promises: whole or not at all, once, and nothing secret in the file.

use firstmile_shared::secret::StreamKey;

use super::*;

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 24 * 3600;

fn token(id: &str, studio: &str, uses: u32) -> NewToken {
    NewToken {
        id: id.to_owned(),
        secret_sha256: [1; 32],
        studio: studio.to_owned(),
        uses,
        expires_unix: NOW + DAY,
        made_by: None,
    }
}

fn enrolment(token: &str, connector: u8) -> Enrolment {
    Enrolment {
        token: token.to_owned(),
        secret_sha256: [1; 32],
        spki: Spki([connector; 32]),
        name: format!("pc-{connector}"),
    }
}

fn line(number: u32, key: &str) -> Line {
    Line {
        line: number,
        name: format!("Camera {number}"),
        key: StreamKey::parse(key).unwrap().hash(&[9; 32]),
        enabled: true,
        delay_ms: 600,
        takeover: Takeover::Never,
        lag: LagPolicy::Accept,
        max_lag_ms: 4_000,
    }
}

fn store_with(tokens: &[NewToken]) -> Sqlite {
    let mut store = Sqlite::in_memory().unwrap();
    for token in tokens {
        store.add_token(token, [9; 32], NOW).unwrap();
    }
    store
}

fn studio(name: &str) -> Redeemed {
    Redeemed::Studio(name.to_owned())
}

#[test]
fn a_token_works_once_and_again_only_for_the_same_connector() {
    let mut store = store_with(&[token("t", "truck1", 1)]);
    // (who, seconds after the invitation, answer)
    for (connector, after_s, answer) in [
        (1, 0, studio("truck1")),
        (1, 1, studio("truck1")), // The answer was lost on 4G.
        (2, 2, Redeemed::Used),
        (1, 2 * DAY, studio("truck1")), // It was in time the first time.
        (3, 2 * DAY, Redeemed::Expired),
    ] {
        let redeemed = store
            .enrol(&enrolment("t", connector), NOW + after_s)
            .unwrap();
        assert_eq!(redeemed, answer, "connector {connector} after {after_s} s");
    }
    let contents = store.studio("truck1").unwrap().unwrap();
    assert_eq!(contents.connectors.len(), 1);
    assert_eq!(contents.connectors[0].name, "pc-1");
}

#[test]
fn a_token_of_two_uses_lets_two_connectors_in() {
    let mut store = store_with(&[token("t", "truck1", 2)]);
    for (connector, answer) in [
        (1, studio("truck1")),
        (2, studio("truck1")),
        (1, studio("truck1")),
        (3, Redeemed::Used),
    ] {
        assert_eq!(
            store.enrol(&enrolment("t", connector), NOW).unwrap(),
            answer,
            "{connector}"
        );
    }
}

#[test]
fn a_wrong_secret_is_an_unknown_token() {
    let mut store = store_with(&[token("t", "truck1", 1)]);
    let mut wrong = enrolment("t", 1);
    wrong.secret_sha256 = [2; 32];
    assert_eq!(store.enrol(&wrong, NOW).unwrap(), Redeemed::Unknown);
    assert_eq!(
        store.enrol(&enrolment("nope", 1), NOW).unwrap(),
        Redeemed::Unknown
    );
    assert_eq!(
        store.enrol(&enrolment("t", 1), NOW).unwrap(),
        studio("truck1"),
        "a wrong try takes no use"
    );
}

#[test]
fn a_connector_belongs_to_one_studio() {
    let mut store = store_with(&[
        token("a", "truck1", 1),
        token("b", "truck2", 1),
        token("c", "truck1", 1),
    ]);
    for (id, answer) in [
        ("a", studio("truck1")),
        ("b", Redeemed::OtherStudio),
        ("c", studio("truck1")),
    ] {
        assert_eq!(
            store.enrol(&enrolment(id, 1), NOW).unwrap(),
            answer,
            "token {id}"
        );
    }
}

#[test]
fn a_revoked_connector_needs_a_new_token() {
    let mut store = store_with(&[token("old", "truck1", 5), token("new", "truck1", 1)]);
    let connector = Spki([1; 32]);
    store.enrol(&enrolment("old", 1), NOW).unwrap();
    assert!(store.declare(connector, 7, &[line(1, "abcdefgh")]).unwrap());

    assert!(store.revoke_connector(connector).unwrap());
    assert!(
        !store.revoke_connector(connector).unwrap(),
        "it is out already"
    );
    assert_eq!(
        store.studio("truck1").unwrap().unwrap().connectors,
        [],
        "it is gone from the studio"
    );
    assert!(
        !store.declare(connector, 8, &[line(1, "abcdefgh")]).unwrap(),
        "it can't declare"
    );
    assert_eq!(
        store.enrol(&enrolment("old", 1), NOW).unwrap(),
        Redeemed::Used
    );

    assert_eq!(
        store.enrol(&enrolment("new", 1), NOW).unwrap(),
        studio("truck1")
    );
    let contents = store.studio("truck1").unwrap().unwrap();
    assert_eq!(contents.connectors[0].lines, [], "its old lines are gone");
}

#[test]
fn a_declaration_replaces_only_its_own_connectors_lines() {
    let mut store = store_with(&[token("t", "truck1", 2)]);
    let (main, spare) = (Spki([1; 32]), Spki([2; 32]));
    for connector in [1, 2] {
        store.enrol(&enrolment("t", connector), NOW).unwrap();
    }
    assert!(
        store
            .declare(
                main,
                5,
                &[line(1, "front-camera"), line(2, "roof-camera-2")]
            )
            .unwrap()
    );
    assert!(store.declare(spare, 1, &[line(9, "front-camera")]).unwrap());
    assert!(
        store
            .declare(main, u64::MAX, &[line(2, "roof-camera-2")])
            .unwrap()
    );
    assert!(
        !store.declare(main, 5, &[]).unwrap(),
        "an older one than the last is ignored"
    );

    let contents = store.studio("truck1").unwrap().unwrap();
    let lines: Vec<_> = contents
        .connectors
        .iter()
        .map(|c| (c.generation, c.lines.clone()))
        .collect();
    assert_eq!(
        lines,
        [
            (u64::MAX, vec![line(2, "roof-camera-2")]),
            (1, vec![line(9, "front-camera")])
        ]
    );
}

#[test]
fn a_declaration_that_fails_half_way_changes_nothing() {
    let mut store = store_with(&[token("t", "truck1", 1)]);
    store.enrol(&enrolment("t", 1), NOW).unwrap();
    assert!(
        store
            .declare(Spki([1; 32]), 1, &[line(1, "front-camera")])
            .unwrap()
    );
    let before = store.studio("truck1").unwrap();
    let twice = [line(2, "roof-camera-2"), line(2, "roof-camera-2")];
    assert!(store.declare(Spki([1; 32]), 2, &twice).is_err());
    assert_eq!(store.studio("truck1").unwrap(), before);
}

#[test]
fn a_revoked_studio_leaves_nothing_behind() {
    let mut store = store_with(&[token("t", "truck1", 2), token("u", "truck2", 1)]);
    store.enrol(&enrolment("t", 1), NOW).unwrap();
    store
        .declare(Spki([1; 32]), 1, &[line(1, "front-camera")])
        .unwrap();
    assert!(store.revoke_studio("truck1").unwrap());
    assert!(!store.revoke_studio("truck1").unwrap());
    assert_eq!(store.studios().unwrap(), ["truck2"]);
    assert_eq!(
        store.enrol(&enrolment("t", 2), NOW).unwrap(),
        Redeemed::Unknown
    );
    for table in ["connectors", "lines", "redemptions"] {
        let rows: i64 = store
            .connection
            .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
                row.get(0)
            })
            .unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

#[test]
fn everything_is_there_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.sqlite");
    let before = {
        let mut store = Sqlite::open(&file).unwrap();
        assert!(
            store
                .add_token(&token("t", "truck1", 1), [3; 32], NOW)
                .unwrap()
        );
        assert!(
            !store
                .add_token(&token("u", "truck1", 1), [4; 32], NOW)
                .unwrap(),
            "the studio keeps its salt"
        );
        store.enrol(&enrolment("t", 1), NOW).unwrap();
        store
            .declare(Spki([1; 32]), 3, &[line(1, "front-camera")])
            .unwrap();
        store.studio("truck1").unwrap()
    };
    let mut store = Sqlite::open(&file).unwrap();
    assert_eq!(store.studio("truck1").unwrap(), before);
    assert_eq!(before.unwrap().salt, [3; 32]);
    let mode: String = store
        .connection
        .query_row("PRAGMA journal_mode", [], |row| row.get(0))
        .unwrap();
    let synchronous: i64 = store
        .connection
        .query_row("PRAGMA synchronous", [], |row| row.get(0))
        .unwrap();
    assert_eq!(
        (mode.as_str(), synchronous),
        ("wal", 2),
        "2 is FULL: each commit is synced"
    );
}

#[test]
fn a_file_of_a_later_version_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.sqlite");
    let store = Sqlite::open(&file).unwrap();
    store
        .connection
        .pragma_update(None, "user_version", 99)
        .unwrap();
    drop(store);
    let error = Sqlite::open(&file).unwrap_err().to_string();
    assert!(error.contains("later version (99"), "{error}");
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.sqlite");
    std::fs::write(&file, "something else entirely, long enough to be read").unwrap();
    assert!(Sqlite::open(&file).is_err());
}

#[test]
fn a_token_that_a_connector_asked_for_ends_with_that_connector() {
    let mut store = store_with(&[token("t", "truck1", 2)]);
    for connector in [1, 2] {
        assert_eq!(
            store.enrol(&enrolment("t", connector), NOW).unwrap(),
            studio("truck1")
        );
        let made = NewToken {
            made_by: Some(Spki([connector; 32])),
            ..token(&format!("of-{connector}"), "truck1", 1)
        };
        store.add_token(&made, [9; 32], NOW).unwrap();
    }
    assert!(store.revoke_connector(Spki([1; 32])).unwrap());
    assert_eq!(
        store.enrol(&enrolment("of-1", 3), NOW).unwrap(),
        Redeemed::Unknown
    );
    assert_eq!(
        store.enrol(&enrolment("of-2", 3), NOW).unwrap(),
        studio("truck1")
    );
}
