//! Listening sockets: dual-stack where the kernel can, IPv4 where it has no IPv6, and errors that name the address.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::{
    config::Listen,
    exit::{ExitCode, Failure},
    os,
};

/// Listens for TCP; `None` when the listener is `off`. `setting` is the key that the error names.
pub fn bind_tcp(listen: &Listen, setting: &str) -> Result<Option<TcpListener>, Failure> {
    bind(listen, setting, |address| {
        let socket = open(address, Type::STREAM, Protocol::TCP)?;
        // A relay that restarts must not wait for the old connections' TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    })
}

/// Opens a UDP socket with large buffers; `None` when the listener is `off`.
pub fn bind_udp(listen: &Listen, setting: &str) -> Result<Option<UdpSocket>, Failure> {
    bind(listen, setting, |address| {
        let socket = open(address, Type::DGRAM, Protocol::UDP)?;
        // The default of 212 KB overflowed with 100 connections. The kernel may grant less: no error then.
        let _ = socket.set_recv_buffer_size(UDP_BUFFER_LEN);
        let _ = socket.set_send_buffer_size(UDP_BUFFER_LEN);
        socket.bind(&address.into())?;
        Ok(socket.into())
    })
}

/// Sends small answers at once, and gives the connection up when the other side's system has said nothing for
/// `silence`: neither to data nor to probes. A peer that is alive and has nothing to send is left in peace.
pub fn watch_peer(socket: &SockRef<'_>, silence: Duration) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let probes = TcpKeepalive::new()
        .with_time((silence / 2).clamp(PROBE_MIN, PROBE_MAX))
        .with_interval((silence / 4).clamp(PROBE_MIN, PROBE_MAX))
        .with_retries(2);
    socket.set_tcp_keepalive(&probes)?;
    os::set_unacknowledged_limit(socket, silence.min(UNACKNOWLEDGED_MAX))
}

fn bind<S>(
    listen: &Listen,
    setting: &str,
    open: impl Fn(SocketAddr) -> io::Result<S>,
) -> Result<Option<S>, Failure> {
    let Listen::At { host, port } = listen else {
        return Ok(None);
    };
    let fail = |error: &io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "; another program uses it: stop that one or choose another port"
            }
            io::ErrorKind::PermissionDenied => {
                "; ports below 1024 need root or CAP_NET_BIND_SERVICE"
            }
            io::ErrorKind::AddrNotAvailable => {
                "; this machine has no such address: give one of its own, or [::] for all"
            }
            _ => "; give an address of this machine, or [::] for all",
        };
        let message = format!("{setting} = \"{listen}\": can't listen: {error}{hint}");
        Failure::new(ExitCode::Io, message)
    };
    let addresses: Vec<SocketAddr> = (host.as_str(), *port)
        .to_socket_addrs()
        .map_err(|error| fail(&error))?
        .collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match open(address) {
            Ok(socket) => return Ok(Some(socket)),
            // A kernel without IPv6: everything that `[::]` would have taken besides IPv6 is on 0.0.0.0.
            Err(error) if is_any_v6(address) && error.raw_os_error() == Some(NO_ADDRESS_FAMILY) => {
                let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
                return open(address).map(Some).map_err(|error| fail(&error));
            }
            Err(error) => last = error,
        }
    }
    Err(fail(&last))
}

fn open(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if is_any_v6(address) {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn is_any_v6(address: SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(v6) if v6.ip().is_unspecified())
}

/// 500 encoders may come back at once after a relay's restart.
const BACKLOG: i32 = 1024;

/// What Linux takes for a probe: whole seconds, from one to this many.
const PROBE_MIN: Duration = Duration::from_secs(1);
const PROBE_MAX: Duration = Duration::from_secs(32_767);

/// Twenty days: Linux counts milliseconds in 31 bits.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_hours(480);

/// Granted up to `net.core.rmem_max`.
const UDP_BUFFER_LEN: usize = 4 * 1024 * 1024;

/// `EAFNOSUPPORT`.
#[cfg(target_os = "linux")]
const NO_ADDRESS_FAMILY: i32 = 97;
#[cfg(target_vendor = "apple")]
const NO_ADDRESS_FAMILY: i32 = 47;
#[cfg(windows)]
const NO_ADDRESS_FAMILY: i32 = 10047;

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn the_wildcard_takes_ipv4_too() {
        let listener = bind_tcp(&Listen::at("::", 0), "rtmp.listen")
            .unwrap()
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    }

    #[test]
    fn a_taken_port_is_named_with_its_setting() {
        let first = bind_tcp(&Listen::at("127.0.0.1", 0), "rtmp.listen")
            .unwrap()
            .unwrap();
        let port = first.local_addr().unwrap().port();
        let error = bind_tcp(&Listen::at("127.0.0.1", port), "rtmp.listen").unwrap_err();
        assert_eq!(error.code, ExitCode::Io);
        assert!(
            error.message.contains("rtmp.listen = \"127.0.0.1:")
                && error.message.contains("another program"),
            "{error}"
        );
    }

    #[test]
    fn a_peer_can_be_watched_for_any_time_that_a_setting_may_say() {
        let listener = bind_tcp(&Listen::at("127.0.0.1", 0), "rtmp.listen")
            .unwrap()
            .unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for silence in [
            Duration::from_millis(1),
            Duration::from_secs(3),
            Duration::from_secs(10),
            Duration::from_hours(20),
            Duration::from_hours(3_660 * 24),
        ] {
            let watched = watch_peer(&SockRef::from(&socket), silence);
            assert!(watched.is_ok(), "{silence:?}: {watched:?}");
        }
    }

    #[test]
    fn off_is_not_an_error() {
        assert!(bind_udp(&Listen::Off, "tunnel.listen").unwrap().is_none());
    }
}
