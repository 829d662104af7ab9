use rustls::{ClientConnection, ServerConnection};

use super::*;

/// The certificate of one identity with the private key of another: all that a thief of certificates has.
fn certificate_without_its_key(of: &Identity, key_of: &Identity) -> Arc<CertifiedKey> {
    Arc::new(CertifiedKey::new(
        of.key.cert.clone(),
        key_of.key.key.clone(),
    ))
}

/// A whole handshake in memory; what the server then knows of the client.
fn handshake(client: ClientConfig, server: ServerConfig) -> Result<Spki, rustls::Error> {
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    assert_eq!(client.alpn_protocol(), Some(ALPN));
    Spki::of_certificate(&server.peer_certificates().unwrap()[0])
}

fn identities() -> (Identity, Identity, Identity) {
    (
        Identity::ephemeral().unwrap(),
        Identity::ephemeral().unwrap(),
        Identity::ephemeral().unwrap(),
    )
}

#[test]
fn both_ends_know_each_other_by_key() {
    let (relay, connector, next_relay_key) = identities();
    let pins = Pins::new(vec![next_relay_key.spki(), relay.spki()]);
    let client = client_config(&connector, pins.clone()).unwrap();
    let server = server_config(&relay).unwrap();
    assert_eq!(handshake(client, server), Ok(connector.spki()));
    assert_eq!(pins.wrong_pin(), None);
}

#[test]
fn another_relay_is_refused_and_named() {
    let (relay, connector, other) = identities();
    let pins = Pins::new(vec![relay.spki()]);
    let client = client_config(&connector, pins.clone()).unwrap();
    let error = handshake(client, server_config(&other).unwrap()).unwrap_err();
    assert_eq!(
        error,
        CertificateError::ApplicationVerificationFailure.into()
    );
    let wrong = pins.wrong_pin().unwrap();
    assert_eq!(
        (wrong.found, wrong.expected.as_slice()),
        (other.spki(), &[relay.spki()][..])
    );
    assert!(
        wrong.to_string().contains(&other.spki().to_string()),
        "{wrong}"
    );
}

#[test]
fn a_relay_with_the_right_certificate_and_the_wrong_key_is_refused() {
    let (relay, connector, thief) = identities();
    let pins = Pins::new(vec![relay.spki()]);
    let client = client_config(&connector, pins.clone()).unwrap();
    let server = server_config_with(certificate_without_its_key(&relay, &thief)).unwrap();
    assert_eq!(
        handshake(client, server),
        Err(CertificateError::BadSignature.into())
    );
    assert_eq!(pins.wrong_pin(), None, "the pin itself was right");
}

#[test]
fn a_connector_with_the_right_certificate_and_the_wrong_key_is_refused() {
    let (relay, connector, thief) = identities();
    let stolen = certificate_without_its_key(&connector, &thief);
    let client = client_config_with(stolen, Pins::new(vec![relay.spki()])).unwrap();
    assert_eq!(
        handshake(client, server_config(&relay).unwrap()),
        Err(CertificateError::BadSignature.into())
    );
}

#[test]
fn a_connector_without_a_certificate_is_refused() {
    let (relay, ..) = identities();
    let mut client = ClientConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Pins::new(vec![relay.spki()]))
        .with_no_client_auth();
    client.alpn_protocols = vec![ALPN.to_vec()];
    assert_eq!(
        handshake(client, server_config(&relay).unwrap()),
        Err(rustls::Error::NoCertificatesPresented)
    );
}

#[test]
fn another_protocol_is_refused() {
    let (relay, connector, _) = identities();
    let mut client = client_config(&connector, Pins::new(vec![relay.spki()])).unwrap();
    client.alpn_protocols = vec![b"firstmile/99".to_vec()];
    assert_eq!(
        handshake(client, server_config(&relay).unwrap()),
        Err(rustls::Error::NoApplicationProtocol)
    );
}

#[test]
fn an_identity_is_made_once_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("identity.pem");
    let first = Identity::load_or_create(&file).unwrap();
    assert!(os::is_private_owner(&file).unwrap());
    let again = Identity::load_or_create(&file).unwrap();
    assert_eq!(again.spki(), first.spki());
}

#[test]
fn a_key_file_that_is_not_ours_alone_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("identity.pem");
    let other = folder.path().join("other.pem");
    Identity::load_or_create(&file).unwrap();
    Identity::load_or_create(&other).unwrap();
    let pem = fs::read_to_string(&file).unwrap();
    let (_, other_certificate) = {
        let pem = fs::read_to_string(&other).unwrap();
        let (key, certificate) = pem.split_once("-----BEGIN CERTIFICATE").unwrap();
        (key.to_owned(), certificate.to_owned())
    };
    let (key, _) = pem.split_once("-----BEGIN CERTIFICATE").unwrap();
    let mixed = format!("{key}-----BEGIN CERTIFICATE{other_certificate}");
    for (contents, part) in [
        ("", "does not hold a private key"),
        ("not a key", "does not hold a private key"),
        (key, "does not hold a private key"),
        (mixed.as_str(), "does not hold a private key"),
    ] {
        ops::write_atomic(&file, contents.as_bytes()).unwrap();
        let error = Identity::load_or_create(&file).unwrap_err();
        assert_eq!(error.code, ExitCode::Config);
        assert!(error.message.contains(part), "{error}");
        assert!(error.message.contains("identity.pem"), "{error}");
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            contents,
            "never replaced"
        );
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        ops::write_atomic(&file, pem.as_bytes()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Identity::load_or_create(&file).unwrap_err();
        assert!(error.message.contains("can be read by others"), "{error}");
    }
}

#[test]
fn an_identity_is_shown_short_and_kept_whole() {
    let spki = Spki(std::array::from_fn(|n| u8::try_from(n).unwrap()));
    assert_eq!(spki.to_string(), "000102030405");
    assert_eq!(format!("{spki:?}"), "Spki(000102030405)");
    assert_eq!(Spki::from_hex(&spki.to_hex()), Some(spki));
    let json = serde_json::to_string(&spki).unwrap();
    assert_eq!(serde_json::from_str::<Spki>(&json).unwrap(), spki);
    assert!(serde_json::from_str::<Spki>("\"00\"").is_err());
}
