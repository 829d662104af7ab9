//! A host behind the NAT of one carrier or more, with a bad link to each.

use super::{
    link::Shape,
    namespace::Namespace,
    plug,
    tun::{Link, Shapes},
};

/// The host and its uplinks; the first one is used while it is there.
#[derive(Debug)]
pub struct Access {
    /// The host.
    pub host: Namespace,
    /// Its uplinks, in the order of preference.
    pub uplinks: Vec<Uplink>,
}

/// One way to the internet.
#[derive(Debug)]
pub struct Uplink {
    /// Between the host and its carrier: up is from the host.
    pub link: Link,
    carrier: Namespace,
    number: u8,
    /// Last part of the carrier's public address, and its first source port.
    outside: (u8, u16),
    /// Last part of the host's private address.
    inside: u8,
}

impl Access {
    pub(super) fn new(name: &'static str) -> anyhow::Result<Self> {
        Ok(Self {
            host: Namespace::new(name)?,
            uplinks: Vec::new(),
        })
    }

    /// Adds an uplink. `number` is in its private addresses, `port` the name of its end at the internet.
    pub(super) fn attach(
        &mut self,
        internet: &Namespace,
        port: &str,
        number: u8,
        shapes: &Shapes,
        seed: u64,
    ) -> anyhow::Result<()> {
        let carrier = Namespace::new("a carrier")?;
        let outside = match number {
            100 => 100,
            number => 20 + 10 * number,
        };
        plug(internet, &carrier, port, &format!("203.0.113.{outside}"))?;
        let device = format!("wan{number}");
        let link = Link::between((&self.host, &device), (&carrier, "lte"), shapes, seed)?;
        carrier.ip(&format!("addr add 100.64.{number}.1/24 dev lte"))?;
        carrier.ip(&format!("link set lte mtu {MTU} up"))?;
        carrier.run("sysctl", "-qw net.ipv4.ip_forward=1", "")?;
        let uplink = Uplink {
            link,
            carrier,
            number,
            outside: (outside, 20_000),
            inside: 2,
        };
        uplink.translate()?;
        self.host.ip(&format!("link set {device} mtu {MTU} up"))?;
        uplink.address(&self.host)?;
        // What is sent from an uplink's address leaves by it.
        self.host.ip(&format!(
            "rule add from 100.64.{number}.0/24 table {}",
            uplink.table()
        ))?;
        self.uplinks.push(uplink);
        Ok(())
    }

    /// The modem of an uplink gets another private address.
    ///
    /// # Errors
    /// When the machine refuses.
    pub fn move_inside(&mut self, uplink: usize, host: u8) -> anyhow::Result<()> {
        let uplink = &mut self.uplinks[uplink];
        let (number, old) = (uplink.number, uplink.inside);
        self.host.ip(&format!(
            "addr del 100.64.{number}.{old}/24 dev wan{number}"
        ))?;
        uplink.inside = host;
        uplink.address(&self.host)
    }
}

impl Uplink {
    /// Both directions of this shape.
    pub fn both(shape: &Shape) -> Shapes {
        Shapes {
            up: shape.clone(),
            down: shape.clone(),
        }
    }

    fn table(&self) -> u32 {
        100 + u32::from(self.number)
    }

    /// The host's own address on it, and its routes: they go with the address.
    fn address(&self, host: &Namespace) -> anyhow::Result<()> {
        let (number, table) = (self.number, self.table());
        let gateway = format!("default via 100.64.{number}.1 dev wan{number}");
        host.ip(&format!(
            "addr add 100.64.{number}.{}/24 dev wan{number}",
            self.inside
        ))?;
        host.ip(&format!("route replace {gateway} metric {number}"))?;
        host.ip(&format!("route replace {gateway} table {table}"))
    }

    fn translate(&self) -> anyhow::Result<()> {
        let (host, port) = self.outside;
        let last = port + PORTS - 1;
        self.carrier.run(
            "nft",
            "-f -",
            &format!(
                "table ip lab\n\
                 delete table ip lab\n\
                 table ip lab {{\n\
                   chain out {{\n type nat hook postrouting priority 100;\n\
                     oifname eth0 meta l4proto {{ tcp, udp }} snat to 203.0.113.{host}:{port}-{last}\n\
                     oifname eth0 snat to 203.0.113.{host}\n }}\n\
                   chain into {{\n type filter hook forward priority 0; policy accept;\n\
                     iifname eth0 ct state new drop\n }}\n\
                   chain venue {{\n type filter hook forward priority -10; policy accept;\n }}\n\
                 }}\n"
            ),
        )
    }

    /// The carrier forgets every mapping and gives other ports.
    ///
    /// # Errors
    /// When the machine refuses.
    pub fn rebind(&mut self) -> anyhow::Result<()> {
        self.outside.1 = match self.outside.1 {
            60_000.. => 20_000,
            port => port + PORTS,
        };
        self.translate()?;
        self.forget()
    }

    /// The carrier has another public address.
    ///
    /// # Errors
    /// When the machine refuses.
    pub fn move_outside(&mut self, host: u8) -> anyhow::Result<()> {
        // In this order: with a network's first address go its others.
        let old = self.outside.0;
        self.carrier
            .ip(&format!("addr del 203.0.113.{old}/24 dev eth0"))?;
        self.carrier
            .ip(&format!("addr add 203.0.113.{host}/24 dev eth0"))?;
        self.outside.0 = host;
        self.translate()?;
        self.forget()
    }

    /// The venue lets no UDP through, or does again.
    ///
    /// # Errors
    /// When the machine refuses.
    pub fn block_udp(&self, is_blocked: bool) -> anyhow::Result<()> {
        if is_blocked {
            self.carrier
                .run("nft", "add rule ip lab venue meta l4proto udp drop", "")
        } else {
            self.carrier.run("nft", "flush chain ip lab venue", "")
        }
    }

    fn forget(&self) -> anyhow::Result<()> {
        self.carrier.run("conntrack", "-F", "")
    }
}

/// As mobile networks have it.
const MTU: u32 = 1420;

/// Of a carrier, at a time.
const PORTS: u16 = 1_000;
