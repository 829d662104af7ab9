//! The directory over a real store.

use firstmile_shared::{
    secret::StreamKey,
    tunnel::control::{LagPolicy, Takeover},
};

use super::*;
use crate::store::{StoreThread, sqlite::Sqlite};

/// A directory and the thread it stands on.
pub(crate) async fn directory() -> (Directory, StoreThread) {
    let store = StoreThread::start(Sqlite::in_memory().unwrap()).unwrap();
    let directory = Directory::open(store.handle()).await.unwrap();
    (directory, store)
}

/// A connector of `studio`, enrolled.
pub(crate) async fn enrolled(directory: &Directory, studio: &str, connector: u8) -> Spki {
    let spki = Spki([connector; 32]);
    let invitation = directory.invite(studio, 1, 60).await.unwrap();
    let name = format!("pc-{connector}");
    directory
        .enrol(&invitation.id, &invitation.secret, spki, &name)
        .await
        .unwrap();
    spki
}

/// A line with this key, as the studio's connector declares it.
pub(crate) fn line(directory: &Directory, studio: &str, number: u32, key: &str) -> LineDeclaration {
    let salt = directory.salt(studio).unwrap();
    LineDeclaration {
        line: number,
        name: format!("Camera {number}"),
        key_hash: StreamKey::parse(key).unwrap().hash(&salt).to_hex(),
        enabled: true,
        delay_ms: 600,
        takeover: Takeover::Smart,
        lag: LagPolicy::Reconnect,
        max_lag_ms: 3_000,
    }
}

#[tokio::test]
async fn two_studios_with_the_same_key_text_never_meet() {
    let (directory, _store) = directory().await;
    let one = enrolled(&directory, "truck1", 1).await;
    let two = enrolled(&directory, "truck2", 2).await;
    for (studio, spki, number) in [("truck1", one, 11), ("truck2", two, 22)] {
        let line = line(&directory, studio, number, "same-key-text");
        directory.declare(spki, 1, vec![line]).await.unwrap();
    }
    let snapshot = directory.snapshot();
    for (studio, connector, number) in [("truck1", one, 11), ("truck2", two, 22)] {
        let grant = snapshot.grant(studio, "SAME key-text").unwrap();
        let lines: Vec<_> = snapshot
            .lines(&grant)
            .iter()
            .map(|line| (line.connector, line.line))
            .collect();
        assert_eq!(lines, [(connector, number)], "{studio}");
    }
    assert_ne!(directory.salt("truck1"), directory.salt("truck2"));
    for (studio, key) in [
        ("truck3", "same-key-text"),
        ("truck1", "other-key"),
        ("", ""),
    ] {
        assert_eq!(snapshot.grant(studio, key), None, "{studio:?} {key:?}");
    }
}

#[tokio::test]
async fn a_key_on_two_connectors_reaches_both_and_a_disabled_line_neither() {
    let (directory, _store) = directory().await;
    let main = enrolled(&directory, "truck1", 1).await;
    let spare = enrolled(&directory, "truck1", 2).await;
    let mut line = line(&directory, "truck1", 1, "front-camera");
    directory
        .declare(main, 1, vec![line.clone()])
        .await
        .unwrap();
    directory
        .declare(spare, 1, vec![line.clone()])
        .await
        .unwrap();
    let lines = |directory: &Directory| {
        let snapshot = directory.snapshot();
        snapshot
            .grant("truck1", "front-camera")
            .map_or(0, |grant| snapshot.lines(&grant).len())
    };
    assert_eq!(lines(&directory), 2);
    line.enabled = false;
    directory
        .declare(main, 2, vec![line.clone()])
        .await
        .unwrap();
    assert_eq!(lines(&directory), 1);
    directory.declare(spare, 2, vec![line]).await.unwrap();
    assert_eq!(lines(&directory), 0);
    let studio = directory.snapshot().studio("truck1").cloned().unwrap();
    assert_eq!((studio.connectors_len(), studio.lines_len()), (2, 2));
}

#[tokio::test]
async fn a_change_is_told_and_a_repetition_is_not() {
    let (directory, _store) = directory().await;
    let spki = enrolled(&directory, "truck1", 1).await;
    let mut changes = directory.revocations();
    let lines = vec![line(&directory, "truck1", 1, "front-camera")];
    directory.declare(spki, 1, lines.clone()).await.unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    directory.declare(spki, 1, lines.clone()).await.unwrap();
    directory.declare(spki, 0, vec![]).await.unwrap();
    assert!(!changes.has_changed().unwrap());
    assert!(directory.revoke_connector(spki).await.unwrap());
    assert!(changes.has_changed().unwrap());
    assert_eq!(directory.connector(&spki), None);
    assert_eq!(
        directory.snapshot().grant("truck1", "front-camera"),
        None,
        "its keys are gone too"
    );
}

#[tokio::test]
async fn every_refusal_of_a_token_is_its_own_sentence() {
    let (directory, _store) = directory().await;
    enrolled(&directory, "truck2", 9).await;
    let good = directory.invite("truck1", 1, 60).await.unwrap();
    let fresh = directory.invite("truck1", 1, 60).await.unwrap();
    let expired = directory.invite("truck1", 1, -1).await.unwrap();
    let enrol = async |id: &str, secret: &Secret, connector: u8| {
        directory
            .enrol(id, secret, Spki([connector; 32]), "pc")
            .await
            .map_err(|error| error.to_string())
    };
    assert_eq!(
        enrol(&good.id, &good.secret, 1).await,
        Ok("truck1".to_owned())
    );
    for (id, secret, connector, says) in [
        (&good.id, &good.secret, 2, "used up"),
        (&expired.id, &expired.secret, 2, "has expired"),
        (
            &fresh.id,
            &expired.secret,
            2,
            "does not know the join token",
        ),
        (&fresh.id, &fresh.secret, 9, "belongs to another studio"),
    ] {
        let error = enrol(id, secret, connector).await.unwrap_err();
        assert!(error.contains(says), "{error}, not {says}");
    }
}

#[tokio::test]
async fn nothing_waits_for_a_store_that_is_gone() {
    let (directory, store) = directory().await;
    let spki = enrolled(&directory, "truck1", 1).await;
    let lines = vec![line(&directory, "truck1", 1, "front-camera")];
    directory.declare(spki, 1, lines).await.unwrap();
    drop(store);
    assert!(
        directory
            .snapshot()
            .grant("truck1", "front-camera")
            .is_some()
    );
    assert!(directory.connector(&spki).is_some());
    let error = directory.invite("truck1", 1, 60).await.unwrap_err();
    assert!(matches!(error, StoreError::Closed), "{error}");
}
