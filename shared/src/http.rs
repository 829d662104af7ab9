//! What the pages and APIs of both programs stand on: bounded sockets, and the names they answer to.
//!
//! *DNS rebinding*: a site's name is pointed at 127.0.0.1 and its script then counts as ours. The `Host` header still
//! names the site, so only [`Hosts`] that are ours are answered.

mod socket;

use std::net::{IpAddr, SocketAddr};

pub use self::socket::{Socket, Sockets};
use crate::config::{Listen, split_host_port};

/// The names and addresses under which this page may be opened.
#[derive(Clone, Debug)]
pub struct Hosts {
    names: Vec<String>,
    /// Listening on all addresses: each may be used. A site can rebind its name, not an address.
    any_address: bool,
}

impl Hosts {
    /// For a listener that was configured as `listen` and is bound to `bound`.
    pub fn new(listen: &Listen, bound: SocketAddr, machine: &str) -> Self {
        let mut names = vec!["localhost".to_owned(), bound.ip().to_string()];
        if let Listen::At { host, .. } = listen {
            names.push(host.to_ascii_lowercase());
        }
        let any_address = bound.ip().is_unspecified();
        if any_address {
            let machine = machine.to_ascii_lowercase();
            names.push(format!("{machine}.local"));
            names.push(machine);
        }
        Self { names, any_address }
    }

    /// Whether a `Host` header names us; its port does not matter, it may be forwarded.
    pub fn know(&self, host: &str) -> bool {
        let Ok((host, _)) = split_host_port(host) else {
            return false;
        };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        self.names.contains(&host)
            || address.is_some_and(|address| self.any_address || self.is_loopback_twin(address))
    }

    /// Bound to one loopback address, the other family's may reach it by a forward.
    fn is_loopback_twin(&self, address: IpAddr) -> bool {
        let bound_to_loopback = (self.names.iter())
            .filter_map(|name| name.parse::<IpAddr>().ok())
            .any(|bound| bound.is_loopback());
        bound_to_loopback && address.is_loopback()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_answered() {
        // (http.listen, bound, host, answered)
        for (listen, bound, host, answered) in [
            ("127.0.0.1:8090", "127.0.0.1:8090", "127.0.0.1:8090", true),
            ("127.0.0.1:8090", "127.0.0.1:8090", "localhost:8090", true),
            ("127.0.0.1:8090", "127.0.0.1:8090", "LOCALHOST.:9000", true),
            ("127.0.0.1:8090", "127.0.0.1:8090", "[::1]:9000", true),
            (
                "127.0.0.1:8090",
                "127.0.0.1:8090",
                "evil.example:8090",
                false,
            ),
            (
                "127.0.0.1:8090",
                "127.0.0.1:8090",
                "127.0.0.1.evil.example",
                false,
            ),
            ("127.0.0.1:8090", "127.0.0.1:8090", "192.0.2.7:8090", false),
            (
                "127.0.0.1:8090",
                "127.0.0.1:8090",
                "localhost@evil.example",
                false,
            ),
            ("127.0.0.1:8090", "127.0.0.1:8090", "", false),
            ("truck.example:80", "192.0.2.7:80", "truck.example", true),
            ("truck.example:80", "192.0.2.7:80", "192.0.2.7", true),
            ("truck.example:80", "192.0.2.7:80", "192.0.2.8", false),
            ("[::]:8090", "[::]:8090", "192.0.2.7:8090", true),
            ("[::]:8090", "[::]:8090", "vmix-pc:8090", true),
            ("[::]:8090", "[::]:8090", "vmix-pc.local:8090", true),
            ("[::]:8090", "[::]:8090", "evil.example", false),
        ] {
            let hosts = Hosts::new(&listen.parse().unwrap(), bound.parse().unwrap(), "VMIX-PC");
            assert_eq!(hosts.know(host), answered, "{listen} asked as {host:?}");
        }
    }
}
