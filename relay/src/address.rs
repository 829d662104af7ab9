//! Where a relay is found from outside: what a join token holds.
//!
//! In this order: what the operator named; the one address that the tunnel listens on; the machine's own address on
//! the way to the internet; what a cloud's metadata service says. Private addresses are taken from the operator only:
//! a token that holds nothing else is useless far from here, so it is refused with the setting to give.

mod metadata;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use firstmile_shared::{
    config::{Listen, join_host_port},
    exit::Failure,
};

use crate::config::{PublicAddress, TunnelConfig};

/// The tunnel's addresses for a token, `HOST:PORT`, best first.
///
/// `named` is the command line's `--address`; `port` is where the tunnel really listens, `None` if that is not known.
pub async fn for_token(
    named: &[PublicAddress],
    config: &TunnelConfig,
    port: Option<u16>,
) -> Result<Vec<String>, Failure> {
    let configured = &config.public_address;
    let addresses = if !named.is_empty() {
        named.to_vec()
    } else if !configured.is_empty() {
        configured.clone()
    } else {
        found(&config.listen).await?
    };
    if addresses.len() > ADDRESSES_MAX {
        return Err(Failure::config(format!(
            "{} addresses: a token holds at most {ADDRESSES_MAX}",
            addresses.len()
        )));
    }
    addresses
        .into_iter()
        .map(|address| match address.port.or(port) {
            Some(port) => Ok(join_host_port(&address.host, port)),
            None => Err(no_port(config)),
        })
        .collect()
}

/// A peer as people know it: IPv4 as IPv4, also on a listener of both families.
pub fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

/// One subscriber of an IPv6 provider has a /64 at least.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = v6.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Whether an address is of use on the public internet.
pub fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    // 100.64.0.0/10 is a carrier's own (RFC 6598), 192.0.0.0/24 is for protocols (RFC 6890).
    let is_carriers = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
    let is_protocols = ip.octets()[..3] == [192, 0, 0];
    !(ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_unspecified()
        || ip.is_broadcast()
        || ip.is_multicast()
        || ip.is_documentation()
        || is_carriers
        || is_protocols)
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    // Global unicast is 2000::/3; 2001:db8::/32 is for books.
    let segments = ip.segments();
    segments[0] & 0xe000 == 0x2000 && segments[..2] != [0x2001, 0x0db8]
}

/// What can be found out without being told.
async fn found(listen: &Listen) -> Result<Vec<PublicAddress>, Failure> {
    if let Listen::At { host, .. } = listen {
        match host.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => {}
            Ok(ip) if is_public(ip) => return Ok(vec![of_ip(ip)]),
            // A private address; or a name, and whether others resolve it only the operator knows.
            _ => return Err(only_private(std::slice::from_ref(host))),
        }
    }
    let own = own_addresses();
    let public: Vec<_> = own.iter().copied().filter(|ip| is_public(*ip)).collect();
    if !public.is_empty() {
        return Ok(public.into_iter().map(of_ip).collect());
    }
    match metadata::public_address().await {
        Some(ip) => Ok(vec![of_ip(ip)]),
        None => Err(only_private(
            &own.iter().map(ToString::to_string).collect::<Vec<_>>(),
        )),
    }
}

/// The addresses that the machine would use towards the internet; IPv4 first, more networks can dial it. Nothing is
/// sent: connecting a UDP socket only asks the routing table.
fn own_addresses() -> Vec<IpAddr> {
    let far_away: [(SocketAddr, SocketAddr); 2] = [
        (
            (Ipv4Addr::UNSPECIFIED, 0).into(),
            (Ipv4Addr::new(198, 41, 0, 4), 53).into(),
        ),
        (
            (Ipv6Addr::UNSPECIFIED, 0).into(),
            (Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30), 53).into(),
        ),
    ];
    far_away
        .into_iter()
        .filter_map(|(local, remote)| {
            let socket = UdpSocket::bind(local).ok()?;
            socket.connect(remote).ok()?;
            Some(socket.local_addr().ok()?.ip())
        })
        .collect()
}

fn of_ip(ip: IpAddr) -> PublicAddress {
    PublicAddress {
        host: ip.to_string(),
        port: None,
    }
}

fn only_private(found: &[String]) -> Failure {
    let found = if found.is_empty() {
        "no address".to_owned()
    } else {
        format!("only {}", found.join(", "))
    };
    Failure::config(format!(
        "no public address is known for the token: this machine shows {found}. Give the address that the studio can reach, by `invite STUDIO --address HOST` or the setting tunnel.public_address"
    ))
}

fn no_port(config: &TunnelConfig) -> Failure {
    match config.listen {
        Listen::Off => Failure::config(
            "tunnel.listen is \"off\": no connector could join; set it, or give --address HOST:PORT",
        ),
        Listen::At { .. } => Failure::config(format!(
            "tunnel.listen = \"{}\" picks its port at the start: start firstmile-relay first, or give --address HOST:PORT",
            config.listen
        )),
    }
}

/// What a token has room for.
const ADDRESSES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use firstmile_shared::exit::ExitCode;

    use super::*;

    fn config(listen: &str, public: &[&str]) -> TunnelConfig {
        TunnelConfig {
            listen: listen.parse().unwrap(),
            public_address: public.iter().map(|text| text.parse().unwrap()).collect(),
            ..TunnelConfig::default()
        }
    }

    fn named(texts: &[&str]) -> Vec<PublicAddress> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn private_and_special_addresses_are_told_from_public_ones() {
        for (ip, public) in [
            ("8.8.8.8", true),
            ("10.1.2.3", false),
            ("172.16.0.1", false),
            ("172.32.0.1", true),
            ("192.168.1.1", false),
            ("100.64.0.1", false),
            ("100.128.0.1", true),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("0.0.0.0", false),
            ("203.0.113.5", false),
            ("2a01:4f8::1", true),
            ("::1", false),
            ("fe80::1", false),
            ("fd00::1", false),
            ("2001:db8::1", false),
            ("::ffff:10.0.0.1", false),
            ("::ffff:8.8.8.8", true),
        ] {
            assert_eq!(is_public(ip.parse().unwrap()), public, "{ip}");
        }
    }

    #[tokio::test]
    async fn what_the_operator_named_goes_first_and_may_be_private() {
        // (--address, tunnel.public_address, tunnel.listen, bound port, the token's)
        for (named_, public, listen, port, expected) in [
            (
                &["127.0.0.1"][..],
                &["relay.example"][..],
                "[::]:4433",
                Some(4433),
                &["127.0.0.1:4433"][..],
            ),
            (
                &["10.0.0.1:7", "[fd00::1]"],
                &[],
                "[::]:4433",
                Some(4433),
                &["10.0.0.1:7", "[fd00::1]:4433"],
            ),
            (
                &[],
                &["relay.example", "192.168.0.9:5"],
                "[::]:0",
                Some(4434),
                &["relay.example:4434", "192.168.0.9:5"],
            ),
            (&[], &[], "8.8.8.8:4433", Some(4433), &["8.8.8.8:4433"]),
        ] {
            let addresses = for_token(&named(named_), &config(listen, public), port).await;
            assert_eq!(
                addresses.unwrap(),
                expected,
                "{named_:?} {public:?} {listen}"
            );
        }
    }

    #[tokio::test]
    async fn a_token_of_private_addresses_only_is_refused_with_the_remedy() {
        for (listen, port, says) in [
            ("127.0.0.1:4433", Some(4433), "only 127.0.0.1"),
            ("192.168.1.5:4433", Some(4433), "tunnel.public_address"),
            ("localhost:4433", Some(4433), "--address HOST"),
        ] {
            let error = for_token(&[], &config(listen, &[]), port)
                .await
                .unwrap_err();
            assert_eq!(error.code, ExitCode::Config);
            assert!(error.message.contains(says), "{error}");
        }
        for (listen, says) in [("off", "\"off\""), ("[::]:0", "picks its port")] {
            let error = for_token(&named(&["relay.example"]), &config(listen, &[]), None)
                .await
                .unwrap_err();
            assert_eq!(error.code, ExitCode::Config);
            assert!(error.message.contains(says), "{error}");
        }
    }
}
