//! What an encoder has to be told: addresses of a line, as one URL and as server and key. Pure.

use firstmile_shared::{
    config::{join_host_port, split_host_port},
    secret::{Secret, StreamKey},
};

use crate::tunnel::RelaySnapshot;

/// Where an encoder publishes to a line. Empty while no relay is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// `rtmp://HOST/STUDIO`, for encoders that ask for server and key apart.
    pub server: Option<String>,
    /// `rtmp[s]://HOST[:PORT]/STUDIO/KEY`, best first.
    pub urls: Vec<Secret>,
}

/// The addresses of the line with this key at the relays that were joined.
pub fn of(key: &StreamKey, relays: &[RelaySnapshot]) -> Addresses {
    let servers: Vec<String> = relays.iter().flat_map(servers).collect();
    Addresses {
        urls: (servers.iter())
            .map(|server| Secret::new(format!("{server}/{}", key.expose())))
            .collect(),
        server: servers.into_iter().next(),
    }
}

fn servers(relay: &RelaySnapshot) -> Vec<String> {
    let Some(studio) = &relay.studio else {
        return Vec::new();
    };
    let mut hosts = relay.ingest.hosts.clone();
    if hosts.is_empty() {
        // The relay was not told its public name: the one that reached it serves encoders too.
        hosts.extend(split_host_port(&relay.address).ok().map(|(host, _)| host));
    }
    let ports = match (relay.ingest.rtmp_port, relay.ingest.rtmps_port) {
        // Never connected yet: RTMP's own port is the best guess.
        (None, None) => (Some(RTMP_PORT), None),
        ports => ports,
    };
    let server = |scheme: &str, host: &str, port: u16, standard: Option<u16>| {
        let place = if Some(port) == standard {
            bracketed(host)
        } else {
            join_host_port(host, port)
        };
        format!("{scheme}://{place}/{studio}")
    };
    let plain =
        (hosts.iter()).filter_map(|host| Some(server("rtmp", host, ports.0?, Some(RTMP_PORT))));
    // 443 is what encoders take for RTMPS without a port, but not all of them: it is always written.
    // An encoder that verifies connects only to what the certificate is for.
    let secure_hosts = relay.ingest.rtmps_hosts.as_ref().unwrap_or(&hosts);
    let secure =
        (secure_hosts.iter()).filter_map(|host| Some(server("rtmps", host, ports.1?, None)));
    plain.chain(secure).collect()
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// Registered for RTMP; encoders take it when a URL names none.
const RTMP_PORT: u16 = 1935;

#[cfg(test)]
mod tests {
    use firstmile_shared::tunnel::control::IngestAddresses;

    use super::*;
    use crate::tunnel::RelayState;

    #[test]
    fn an_encoder_is_told_what_the_relay_said_and_else_where_it_was_found() {
        let key = StreamKey::parse("7k2m-x9qd-h4tp").unwrap();
        let none = Some(vec![]);
        // (dialled, public hosts, RTMP, RTMPS, hosts of its certificate, server, URLs)
        for (address, hosts, rtmp, rtmps, secure, server, urls) in [
            (
                "vps.example:4433",
                vec![],
                Some(1935),
                None,
                None,
                "rtmp://vps.example/truck1",
                vec!["rtmp://vps.example/truck1/7k2m-x9qd-h4tp"],
            ),
            (
                "198.51.100.7:4433",
                vec!["live.example"],
                Some(1940),
                Some(1936),
                None,
                "rtmp://live.example:1940/truck1",
                vec![
                    "rtmp://live.example:1940/truck1/7k2m-x9qd-h4tp",
                    "rtmps://live.example:1936/truck1/7k2m-x9qd-h4tp",
                ],
            ),
            (
                "198.51.100.7:4433",
                vec![],
                Some(1935),
                Some(1936),
                Some(vec!["live.example".to_owned()]),
                "rtmp://198.51.100.7/truck1",
                vec![
                    "rtmp://198.51.100.7/truck1/7k2m-x9qd-h4tp",
                    "rtmps://live.example:1936/truck1/7k2m-x9qd-h4tp",
                ],
            ),
            (
                "vps.example:4433",
                vec!["live.example"],
                Some(1935),
                Some(1936),
                none,
                "rtmp://live.example/truck1",
                vec!["rtmp://live.example/truck1/7k2m-x9qd-h4tp"],
            ),
            (
                "[2001:db8::1]:4433",
                vec![],
                None,
                None,
                None,
                "rtmp://[2001:db8::1]/truck1",
                vec!["rtmp://[2001:db8::1]/truck1/7k2m-x9qd-h4tp"],
            ),
        ] {
            let relay = RelaySnapshot {
                address: address.into(),
                state: RelayState::Connected,
                reason: None,
                transport: "quic",
                rtt_ms: None,
                lost_percent: None,
                studio: Some("truck1".into()),
                ingest: IngestAddresses {
                    hosts: hosts.into_iter().map(str::to_owned).collect(),
                    rtmp_port: rtmp,
                    rtmps_port: rtmps,
                    rtmps_hosts: secure,
                },
                declared: None,
                findings: std::collections::BTreeMap::new(),
                claims: std::collections::BTreeMap::new(),
            };
            let addresses = of(&key, &[relay]);
            assert_eq!(addresses.server.as_deref(), Some(server));
            let shown: Vec<_> = addresses.urls.iter().map(Secret::expose).collect();
            assert_eq!(shown, urls);
        }
        assert_eq!(of(&key, &[]), Addresses::default());
    }
}
