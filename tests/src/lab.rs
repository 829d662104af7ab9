//! A laboratory of bad links: hosts as network namespaces, links that this process carries packet by packet.
//!
//! ```text
//!  encoder ──(its uplink)── NAT ──┐                    ┌── NAT ──(4G)── studio
//!                                 internet (a bridge) ─┤
//!  relay, second relay, server ───┘                    └── NAT ──(a second uplink, where wanted)
//! ```
//! Public addresses are of 203.0.113.0/24 (RFC 5737), those behind a carrier's NAT of 100.64.0.0/10 (RFC 6598). Root only. The
//! kernel needs TUN, veth, bridges and nftables; no qdisc that delays or loses.

pub mod access;
pub mod feed;
pub mod link;
pub mod namespace;
pub mod on_air;
pub mod row;
pub mod run;
pub mod score;
pub mod show;
pub mod srt;
pub mod table;
pub mod tcp;
pub mod trace;
pub mod tun;

use std::process::Command;

use self::{access::Access, namespace::Namespace, tun::Shapes};

/// Where the relay is.
pub const RELAY: &str = "203.0.113.10";

/// Where the second relay is.
pub const RELAY_2: &str = "203.0.113.11";

/// Where other people's servers are.
pub const SERVER: &str = "203.0.113.12";

/// All hosts and links of one show.
#[derive(Debug)]
pub struct Lab {
    /// [`RELAY`].
    pub relay: Namespace,
    /// [`RELAY_2`].
    pub relay_2: Namespace,
    /// [`SERVER`].
    pub server: Namespace,
    /// The encoder, behind a carrier.
    pub encoder: Access,
    /// The studio, behind one carrier or more.
    pub studio: Access,
    internet: Namespace,
}

impl Lab {
    /// Sets all of it up: the encoder's link, and the studio's, the one that is used first.
    ///
    /// # Errors
    /// Without root, `ip`, `nft` or `/dev/net/tun`.
    pub fn start(encoder: &Shapes, studio: &[Shapes], seed: u64) -> anyhow::Result<Self> {
        let internet = Namespace::new("the internet")?;
        internet.ip("link add br0 type bridge")?;
        internet.ip("link set br0 up")?;
        let host = |name, port: &str, address: &str| {
            let host = Namespace::new(name)?;
            plug(&internet, &host, port, address)?;
            anyhow::Ok(host)
        };
        let mut lab = Self {
            relay: host("the relay", "relay", RELAY)?,
            relay_2: host("the second relay", "relay2", RELAY_2)?,
            server: host("the server", "server", SERVER)?,
            encoder: Access::new("the encoder")?,
            studio: Access::new("the studio")?,
            internet,
        };
        lab.encoder
            .attach(&lab.internet, "field", 100, encoder, seed ^ 0xff)?;
        for (number, shapes) in (1..).zip(studio) {
            let port = format!("studio{number}");
            let seed = seed ^ (u64::from(number) << 32);
            lab.studio
                .attach(&lab.internet, &port, number, shapes, seed)?;
        }
        Ok(lab)
    }
}

/// Why there can be no laboratory here; `None`: there can.
pub fn missing() -> Option<String> {
    let id = Command::new("id").arg("-u").output();
    if !id.is_ok_and(|id| id.stdout == b"0\n") {
        return Some("the laboratory needs root for its network namespaces".to_owned());
    }
    if let Err(error) = std::fs::File::open("/dev/net/tun") {
        return Some(format!("/dev/net/tun: {error}"));
    }
    let missing = ["ip", "nft", "conntrack", "ping", "nsenter", "unshare"]
        .into_iter()
        .find(|program| Command::new(program).arg("--version").output().is_err());
    missing.map(|program| format!("no {program} program: run make setup"))
}

/// A cable between the internet and a host, whose end there is `eth0`.
fn plug(internet: &Namespace, host: &Namespace, port: &str, address: &str) -> anyhow::Result<()> {
    // The prefix keeps it apart from the words of `ip`.
    internet.ip(&format!(
        "link add name to-{port} type veth peer name eth0 netns {}",
        host.pid()
    ))?;
    internet.ip(&format!("link set to-{port} master br0 up"))?;
    host.ip(&format!("addr add {address}/24 dev eth0"))?;
    host.ip("link set eth0 up")
}
