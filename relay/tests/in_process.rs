//! A whole relay inside a test: the same start as the program's, on ports of the system's choice.

use firstmile_relay::{
    config::Config,
    control::{Answer, Invited, Request, State},
    server::Relay,
};
use firstmile_shared::{config::Listen, exit::Failure, ops::StateDir};

fn config() -> Config {
    let mut config = Config::default();
    for listen in [
        &mut config.rtmp.listen,
        &mut config.rtmps.listen,
        &mut config.tunnel.listen,
        &mut config.http.listen,
    ] {
        *listen = Listen::at("127.0.0.1", 0);
    }
    config
}

fn state(folder: &tempfile::TempDir) -> Result<StateDir, Failure> {
    let path = StateDir::locate(Some(&folder.path().join("state")), "firstmile-relay")?;
    StateDir::lock(path, "firstmile-relay")
}

#[tokio::test]
async fn a_relay_starts_answers_stops_and_starts_again_with_what_it_knew() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let relay = Relay::start(config(), state(&folder)?).await?;
    let bound = relay.addresses();
    for address in [bound.rtmp, bound.rtmps, bound.tunnel, bound.http] {
        assert!(
            address.is_some_and(|address| address.port() != 0),
            "{bound:?}"
        );
    }
    let invite = Request::Invite {
        studio: "truck1".to_owned(),
        uses: 1,
        ttl_s: 60,
        addresses: vec!["127.0.0.1".to_owned()],
    };
    let invited: Invited = relay.control().handle(invite).await.into_result()?;
    assert_eq!(invited.studio, "truck1");
    assert!(state(&folder).is_err(), "the folder is in use");
    relay.stop().await?;

    let relay = Relay::start(config(), state(&folder)?).await?;
    let studios: Vec<_> = relay.control().studios();
    assert_eq!(studios.len(), 1);
    assert_eq!(studios[0].name, "truck1");
    let Answer::Done(status) = relay
        .control()
        .handle(Request::Drain {
            close_after_s: None,
        })
        .await
    else {
        panic!("a running relay can be drained");
    };
    assert_eq!(status["state"], serde_json::to_value(State::Draining)?);
    relay.stop().await
}

#[tokio::test]
async fn everything_may_be_off_and_a_taken_port_starts_nothing() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut off = config();
    off.rtmp.listen = Listen::Off;
    off.rtmps.listen = Listen::Off;
    off.tunnel.listen = Listen::Off;
    off.http.listen = Listen::Off;
    let relay = Relay::start(off, state(&folder)?).await?;
    let bound = relay.addresses();
    assert_eq!((bound.rtmp, bound.tunnel, bound.http), (None, None, None));
    relay.stop().await?;

    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let mut config = config();
    config.http.listen = Listen::at("127.0.0.1", taken.local_addr()?.port());
    let Err(failure) = Relay::start(config, state(&folder)?).await else {
        panic!("the port is taken");
    };
    assert!(failure.message.contains("http.listen"), "{failure}");
    assert!(state(&folder).is_ok(), "the folder is free again");
    Ok(())
}
