//! What comes before RTMP: TLS, load balancers, and those who are at the wrong door.

use std::path::Path;

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::ingest::tls::Source;

/// An authority and a certificate of it for these hosts, in files.
struct Authority {
    folder: tempfile::TempDir,
    key: rcgen::KeyPair,
    certificate: rcgen::Certificate,
    parameters: rcgen::CertificateParams,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap();
        Self {
            folder: tempfile::tempdir().unwrap(),
            key,
            certificate,
            parameters,
        }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn issue(&self, hosts: &[&str]) {
        let key = rcgen::KeyPair::generate().unwrap();
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let parameters = rcgen::CertificateParams::new(hosts).unwrap();
        let issuer = rcgen::Issuer::from_params(&self.parameters, &self.key);
        let certificate = parameters.signed_by(&key, &issuer).unwrap();
        std::fs::write(self.file("relay.key"), key.serialize_pem()).unwrap();
        std::fs::write(self.file("relay.crt"), certificate.pem()).unwrap();
    }

    fn source(&self) -> Source {
        Source::Files {
            certificate: self.file("relay.crt"),
            key: self.file("relay.key"),
        }
    }

    async fn connect(&self, relay: &Relay, host: &str) -> io::Result<TlsStream<TcpStream>> {
        connect(relay, self.certificate.der(), host).await
    }
}

async fn connect(
    relay: &Relay,
    trusted: &CertificateDer<'_>,
    host: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone().into_owned()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let host = ServerName::try_from(host.to_owned()).unwrap();
    let socket = TcpStream::connect(relay.address).await?;
    TlsConnector::from(Arc::new(config))
        .connect(host, socket)
        .await
}

fn own_made(folder: &Path, hosts: &[&str]) -> Tls {
    let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    let file = folder.join("rtmps.pem");
    Tls::new(Source::OwnMade { file, hosts }).unwrap()
}

#[tokio::test]
async fn an_encoder_with_tls_publishes_and_is_told_the_end() {
    let authority = Authority::new();
    authority.issue(&["relay.example"]);
    let tls = Tls::new(authority.source()).unwrap();
    let mut relay = Relay::start_as(LIMITS, &[], Some(tls)).await;
    let socket = authority.connect(&relay, "relay.example").await.unwrap();
    let mut phone = Phone::over(socket);
    phone.publish("truck1", "front-camera").await;
    assert!(phone.is_let_in().await);
    phone.media(40).await;
    relay.studio.wait_units(2).await;
    assert_eq!(relay.registry.publishers()[0].protocol, "rtmps");
    relay.stop().await;
    // Without close_notify, rustls would call it an unexpected end.
    let mut rest = Vec::new();
    phone.socket.read_to_end(&mut rest).await.unwrap();
}

#[tokio::test]
async fn our_own_certificate_is_kept_private_and_is_for_the_hosts_that_the_relay_has() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rtmps.pem");
    drop(own_made(folder.path(), &["localhost", "127.0.0.1"]));
    let first = std::fs::read(&file).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    drop(own_made(folder.path(), &["localhost"]));
    assert_eq!(
        std::fs::read(&file).unwrap(),
        first,
        "it is for all of them"
    );
    let tls = own_made(folder.path(), &["relay.example", "127.0.0.1"]);
    let second = std::fs::read(&file).unwrap();
    assert_ne!(second, first);
    assert_eq!(
        second.split(|byte| *byte == b'\n').nth(1),
        first.split(|byte| *byte == b'\n').nth(1),
        "the key stays"
    );
    assert!(tls.hosts(&["relay.example".to_owned()]).is_empty());

    let mut relay = Relay::start_as(LIMITS, &[], Some(tls)).await;
    let certificate = CertificateDer::from_pem_slice(&second).unwrap();
    for host in ["relay.example", "127.0.0.1"] {
        connect(&relay, &certificate, host).await.unwrap();
    }
    relay.stop().await;
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_and_a_broken_one_is_not() {
    let authority = Authority::new();
    authority.issue(&["old.example"]);
    let tls = Tls::new(authority.source()).unwrap();
    let hosts = |names: &[&str]| -> Vec<String> { names.iter().map(ToString::to_string).collect() };
    assert_eq!(tls.hosts(&[]), ["old.example"]);
    assert_eq!(
        tls.hosts(&hosts(&["192.0.2.7", "old.example"])),
        ["old.example"]
    );
    let limits = Limits {
        handshake_timeout: Duration::from_mins(1),
        ..LIMITS
    };
    let mut relay = Relay::start_as(limits, &[], Some(tls.clone())).await;
    let before = authority.connect(&relay, "old.example").await.unwrap();
    authority.issue(&["new.example"]);
    let changed = Instant::now();
    while authority.connect(&relay, "new.example").await.is_err() {
        assert!(changed.elapsed() < PATIENCE, "it is not taken up");
        time::sleep(Duration::from_millis(100)).await;
    }
    std::fs::write(authority.file("relay.crt"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    let mut followed = tls.followed();
    let refused = loop {
        assert!(changed.elapsed() < PATIENCE, "it is not looked at");
        if let Some(Err(why)) = tls.look(&mut followed).await {
            break why;
        }
    };
    assert!(refused.contains("relay.crt"), "{refused}");
    authority.connect(&relay, "new.example").await.unwrap();
    // The same files, but for what kept them from being read: their user, for one.
    let file = authority.file("relay.crt");
    authority.issue(&["third.example"]);
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, vec![b'x'; good.len()]).unwrap();
    let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
    while tls.look(&mut followed).await.is_none() {}
    for _ in 0..3 {
        assert_eq!(tls.look(&mut followed).await, None, "it is said once");
    }
    let written = std::fs::File::create(&file).unwrap();
    io::Write::write_all(&mut &written, &good).unwrap();
    written.set_modified(modified).unwrap();
    drop(written);
    assert_eq!(tls.look(&mut followed).await, Some(Ok(())));
    authority.connect(&relay, "third.example").await.unwrap();
    // Who was there before goes on.
    let mut phone = Phone::over(before);
    phone.publish("truck1", "front-camera").await;
    assert!(phone.is_let_in().await);
    relay.stop().await;
}

#[test]
fn files_that_can_not_be_used_are_named() {
    let authority = Authority::new();
    authority.issue(&["relay.example"]);
    let key = std::fs::read_to_string(authority.file("relay.key")).unwrap();
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    for (certificate, key, says) in [
        (None, Some(key.as_str()), "relay.crt"),
        (Some(""), Some(key.as_str()), "relay.crt"),
        (Some("whole"), None, "relay.key"),
        (Some("whole"), Some("nonsense"), "relay.key"),
        (
            Some("whole"),
            Some(other.as_str()),
            "the key is not the certificate's",
        ),
    ] {
        authority.issue(&["relay.example"]);
        for (name, text) in [("relay.crt", certificate), ("relay.key", key)] {
            match text {
                Some("whole") => {}
                Some(text) => std::fs::write(authority.file(name), text).unwrap(),
                None => std::fs::remove_file(authority.file(name)).unwrap(),
            }
        }
        let failure = authority.source().load().unwrap_err();
        assert!(failure.message.contains(says), "{}", failure.message);
        assert!(!failure.message.contains("nonsense"));
    }
}

#[tokio::test]
async fn whoever_is_at_the_wrong_door_is_let_go_in_good_order_and_counted_by_his_mistake() {
    let folder = tempfile::tempdir().unwrap();
    for (tls, says) in [
        (
            None,
            [
                (
                    &b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"[..],
                    "tls_on_rtmp",
                ),
                (b"GET / HTTP/1.1\r\n\r\n", "http"),
                (b"\x06\0\0\0\0", "rtmpe"),
                (b"G\x40\x11\x10\0\x42\xf0", "mpeg_ts"),
                (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", "proxy"),
                (b"\xff\xff\xff\xff", "protocol"),
            ],
        ),
        (
            Some(own_made(folder.path(), &["localhost"])),
            [
                (&b"\x03\0\0\0\0\0\0\0\0"[..], "rtmp_on_rtmps"),
                (b"GET / HTTP/1.1\r\n\r\n", "http"),
                (b"\x06\0\0\0\0", "rtmpe"),
                (b"G\x40\x11\x10\0\x42\xf0", "mpeg_ts"),
                (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", "proxy"),
                (b"\x16\x03\x01\0\x04\x01\0\0\0", "tls"),
            ],
        ),
    ] {
        let mut relay = Relay::start_as(LIMITS, &[], tls).await;
        for (bytes, reason) in says {
            let mut socket = TcpStream::connect(relay.address).await.unwrap();
            socket.write_all(bytes).await.unwrap();
            let mut rest = Vec::new();
            let end = time::timeout(PATIENCE, socket.read_to_end(&mut rest)).await;
            let is_clean = end.unwrap().is_ok();
            assert!(is_clean || reason == "tls", "{reason}: a reset is no end");
            drop(socket);
            let counted = format!("refusals_total{{reason=\"{reason}\"}} 1");
            eventually(|| relay.metrics().contains(&counted).then_some(())).await;
        }
        relay.stop().await;
    }
}

fn proxied(source: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend_from_slice(&source);
    header.extend_from_slice(&[10, 0, 0, 1, 0xd4, 0x31, 0x07, 0x8f]);
    header
}

#[tokio::test]
async fn behind_a_load_balancer_encoders_have_their_own_addresses_and_shares() {
    let limits = Limits {
        connections_per_address: 1,
        ..LIMITS
    };
    let mut relay = Relay::start_as(limits, &["127.0.0.0/8"], None).await;
    let mut first = Phone::connect(&relay).await;
    first
        .socket
        .write_all(&proxied([203, 0, 113, 9]))
        .await
        .unwrap();
    first.publish("truck1", "front-camera").await;
    assert!(first.is_let_in().await);
    assert_eq!(relay.registry.publishers()[0].peer, "203.0.113.9:54321");
    let mut second = Phone::connect(&relay).await;
    second
        .socket
        .write_all(&proxied([203, 0, 113, 9]))
        .await
        .unwrap();
    assert!(
        second.read_to_end().await.is_empty(),
        "its share is used up"
    );
    let mut third = Phone::connect(&relay).await;
    third
        .socket
        .write_all(&proxied([203, 0, 113, 10]))
        .await
        .unwrap();
    third.publish("truck1", "wrong-key").await;
    assert!(third.read_until("BadName").await);

    let mut without = Phone::connect(&relay).await;
    without.socket.write_all(&[3; 64]).await.unwrap();
    assert!(without.read_to_end().await.is_empty());
    let counted = "refusals_total{reason=\"proxy\"} 1";
    eventually(|| relay.metrics().contains(counted).then_some(())).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_tls_handshake_that_never_ends_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits {
        handshake_timeout: Duration::from_millis(300),
        ..LIMITS
    };
    let tls = own_made(folder.path(), &["localhost"]);
    let mut relay = Relay::start_as(limits, &[], Some(tls)).await;
    let silent = Phone::connect(&relay).await;
    let mut slow = Phone::connect(&relay).await;
    slow.socket
        .write_all(b"\x16\x03\x01\x40\0\x01")
        .await
        .unwrap();
    // A record after the other of one message without end.
    let mut endless = Phone::connect(&relay).await;
    let mut bytes = b"\x16\x03\x01\x40\0\x01\0\xff\xff".to_vec();
    bytes.resize(5 + 0x4000, 0);
    endless.socket.write_all(&bytes.repeat(2)).await.unwrap();
    for mut phone in [silent, slow, endless] {
        phone.read_to_end().await;
    }
    // One that begins at the last moment gets no more time for it: it goes before one that came after it. The pauses are
    // those of the two.
    let mut late = Phone::connect(&relay).await;
    time::sleep(Duration::from_millis(100)).await;
    let mut after = Phone::connect(&relay).await;
    time::sleep(Duration::from_millis(100)).await;
    late.socket.write_all(b"\x16\x03\x01\x40\0").await.unwrap();
    tokio::select! {
        biased;
        _ = late.read_to_end() => {}
        _ = after.read_to_end() => panic!("it got more time"),
    }
    after.read_to_end().await;
    let metrics = relay.metrics();
    assert!(metrics.contains("reason=\"too_slow\"} 4"), "{metrics}");
    assert!(metrics.contains("reason=\"tls\"} 1"), "{metrics}");
    relay.stop().await;
}
