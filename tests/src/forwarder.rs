//! What stands between a studio and its relay: forwards UDP and TCP on one port, and can do what firewalls, NAT boxes
//! and modems do: let no UDP through, give a connection another port, go silent.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    thread::{self, JoinHandle},
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket, tcp},
    runtime,
    sync::watch,
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

/// A forwarder; its connections end when it is dropped.
#[derive(Debug)]
pub struct Forwarder {
    address: SocketAddr,
    rules: watch::Sender<Rules>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// What it lets through.
#[derive(Clone, Copy, Debug)]
struct Rules {
    relay: SocketAddr,
    udp: bool,
    /// `false`: nothing is read, so nothing is acknowledged end to end.
    tcp: bool,
    /// Counts the changes of ports.
    ports: u64,
    /// Counts the times that TCP connections were cut.
    cuts: u64,
}

impl Forwarder {
    /// Forwards everything to `relay`.
    ///
    /// # Errors
    /// When there is no port or no thread for it.
    pub fn to(relay: SocketAddr) -> anyhow::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (udp, listener) = runtime.block_on(async {
            // One port for both, as the relay's.
            loop {
                let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                if let Ok(listener) = TcpListener::bind(udp.local_addr()?).await {
                    return anyhow::Ok((udp, listener));
                }
            }
        })?;
        let address = udp.local_addr()?;
        let (rules, followed) = watch::channel(Rules {
            relay,
            udp: true,
            tcp: true,
            ports: 0,
            cuts: 0,
        });
        let stop = CancellationToken::new();
        let thread = {
            let stop = stop.clone();
            thread::Builder::new()
                .name("forwarder".into())
                .spawn(move || {
                    let forward = async {
                        tokio::join!(
                            datagrams(udp, followed.clone()),
                            connections(listener, followed)
                        );
                    };
                    runtime.block_on(stop.run_until_cancelled(forward));
                })
                .context("the forwarder's thread")?
        };
        Ok(Self {
            address,
            rules,
            stop,
            thread: Some(thread),
        })
    }

    /// Where the studio connects to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets UDP through or not, both ways.
    pub fn let_udp(&self, passes: bool) {
        self.rules.send_modify(|rules| rules.udp = passes);
    }

    /// Lets TCP through or not, both ways: what is under way waits.
    pub fn let_tcp(&self, passes: bool) {
        self.rules.send_modify(|rules| rules.tcp = passes);
    }

    /// Gives every UDP connection another port to the relay, as a NAT box does that was restarted: what comes to the old
    /// one is lost.
    pub fn rebind(&self) {
        self.rules.send_modify(|rules| rules.ports += 1);
    }

    /// Cuts all TCP connections.
    pub fn cut_tcp(&self) {
        self.rules.send_modify(|rules| rules.cuts += 1);
    }

    /// Another relay stands there from now on.
    pub fn lead_to(&self, relay: SocketAddr) {
        self.rules.send_modify(|rules| {
            rules.relay = relay;
            rules.ports += 1;
            rules.cuts += 1;
        });
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn datagrams(front: UdpSocket, mut rules: watch::Receiver<Rules>) {
    let front = Arc::new(front);
    let mut ways: HashMap<SocketAddr, (Arc<UdpSocket>, AbortHandle)> = HashMap::new();
    let mut home = JoinSet::new();
    let mut ports = rules.borrow().ports;
    let mut packet = vec![0; 65_536];
    loop {
        let got = tokio::select! {
            got = front.recv_from(&mut packet) => got,
            changed = rules.changed() => {
                if changed.is_err() {
                    return;
                }
                if std::mem::replace(&mut ports, rules.borrow().ports) != rules.borrow().ports {
                    for (_, (_, reader)) in ways.drain() {
                        reader.abort();
                    }
                }
                continue;
            }
            Some(_) = home.join_next() => continue,
        };
        let now = *rules.borrow();
        let Ok((len, studio)) = got else {
            continue;
        };
        if !now.udp {
            continue;
        }
        let (out, _) = match ways.entry(studio) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let Ok(out) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else {
                    continue;
                };
                let out = Arc::new(out);
                let reader = home.spawn(back(out.clone(), front.clone(), studio, rules.clone()));
                new.insert((out, reader))
            }
        };
        let _ = out.send_to(&packet[..len], now.relay).await;
    }
}

async fn back(
    out: Arc<UdpSocket>,
    front: Arc<UdpSocket>,
    studio: SocketAddr,
    rules: watch::Receiver<Rules>,
) {
    let mut packet = vec![0; 65_536];
    loop {
        // A port that nobody listens at is told of as an error of the socket.
        let Ok((len, from)) = out.recv_from(&mut packet).await else {
            continue;
        };
        let now = *rules.borrow();
        if now.udp && from == now.relay {
            let _ = front.send_to(&packet[..len], studio).await;
        }
    }
}

async fn connections(listener: TcpListener, mut rules: watch::Receiver<Rules>) {
    let mut open = JoinSet::new();
    let mut cuts = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            changed = rules.changed() => {
                if changed.is_err() {
                    return;
                }
                if std::mem::replace(&mut cuts, rules.borrow().cuts) != rules.borrow().cuts {
                    open.abort_all();
                }
                continue;
            }
            Some(_) = open.join_next() => continue,
        };
        if let Ok((studio, _)) = accepted {
            open.spawn(connection(studio, rules.clone()));
        }
    }
}

async fn connection(studio: TcpStream, mut rules: watch::Receiver<Rules>) {
    if rules.wait_for(|rules| rules.tcp).await.is_err() {
        return;
    }
    let relay = rules.borrow().relay;
    let Ok(relay) = TcpStream::connect(relay).await else {
        return;
    };
    for socket in [&studio, &relay] {
        let _ = socket.set_nodelay(true);
    }
    let (from_studio, to_studio) = studio.into_split();
    let (from_relay, to_relay) = relay.into_split();
    tokio::select! {
        () = copy(from_studio, to_relay, rules.clone()) => {}
        () = copy(from_relay, to_studio, rules) => {}
    }
}

async fn copy(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mut rules: watch::Receiver<Rules>,
) {
    let mut bytes = [0; 16 * 1024];
    while rules.wait_for(|rules| rules.tcp).await.is_ok() {
        let Ok(len @ 1..) = from.read(&mut bytes).await else {
            return;
        };
        if rules.wait_for(|rules| rules.tcp).await.is_err()
            || to.write_all(&bytes[..len]).await.is_err()
        {
            return;
        }
    }
}
