//! The sockets of an HTTP listener: not too many at once, and none that only waits.
//!
//! When all places are taken, whoever has had nothing answered for longest makes room for a newcomer: open pages and
//! half requests must not keep a health check out. A request counts when it is answered, not while it trickles in.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{self, Future},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Instant, Sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::warn;

/// Accepts up to a number of connections; the rest waits in the kernel's backlog.
#[derive(Debug)]
pub struct Sockets {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    guests: Arc<Guests>,
}

/// Who is connected, by number.
#[derive(Debug, Default)]
struct Guests(Mutex<HashMap<u64, Guest>>);

#[derive(Debug)]
struct Guest {
    /// When it came, or was last answered.
    served: Instant,
    must_go: CancellationToken,
}

impl Guests {
    fn table(&self) -> MutexGuard<'_, HashMap<u64, Guest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the one away that has had nothing for longest, if that is [`IDLE_MIN`] at least.
    fn make_room(&self) {
        let table = self.table();
        let longest = table.values().min_by_key(|guest| guest.served);
        if let Some(guest) = longest.filter(|guest| guest.served.elapsed() >= IDLE_MIN) {
            guest.must_go.cancel();
        }
    }

    fn all_must_go(&self) {
        for guest in self.table().values() {
            guest.must_go.cancel();
        }
    }
}

impl Sockets {
    /// Takes over a bound listener.
    pub fn new(listener: std::net::TcpListener, connections_max: usize) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: TcpListener::from_std(listener)?,
            permits: Arc::new(Semaphore::new(connections_max)),
            guests: Arc::default(),
        })
    }

    /// Sends away who has not been answered [`LAST_ANSWERS`] after `shutdown`: half a request, or an answer that nobody
    /// reads, must not keep the program from ending. Run it beside the server, whose own end is the last guest's.
    pub fn end_stragglers(
        &self,
        shutdown: CancellationToken,
    ) -> impl Future<Output = Infallible> + use<> {
        let guests = self.guests.clone();
        async move {
            shutdown.cancelled().await;
            time::sleep(LAST_ANSWERS).await;
            guests.all_must_go();
            future::pending().await
        }
    }

    /// Waits until a newcomer may come in.
    async fn permit(&self) -> OwnedSemaphorePermit {
        loop {
            let permit = self.permits.clone().acquire_owned();
            match time::timeout(LOOK_AGAIN, permit).await {
                Ok(Ok(permit)) => return permit,
                Ok(Err(_)) => unreachable!("the semaphore is never closed"),
                Err(_) => self.guests.make_room(),
            }
        }
    }
}

impl Listener for Sockets {
    type Io = Socket;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Socket, SocketAddr) {
        loop {
            // The newcomer first: nobody has to go while nobody comes.
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let permit = self.permit().await;
                    return (Socket::new(stream, permit, self.guests.clone()), peer);
                }
                Err(error) => {
                    warn!(%error, "the listener of the page and the API");
                    time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when it has had no answer for [`IDLE_MAX`], or has to make room.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    must_go: Pin<Box<WaitForCancellationFutureOwned>>,
    number: u64,
    guests: Arc<Guests>,
    _permit: OwnedSemaphorePermit,
}

impl Socket {
    fn new(stream: TcpStream, permit: OwnedSemaphorePermit, guests: Arc<Guests>) -> Self {
        let must_go = CancellationToken::new();
        let guest = Guest {
            served: Instant::now(),
            must_go: must_go.clone(),
        };
        let number = {
            let mut table = guests.table();
            let number = table.keys().max().map_or(0, |last| last.wrapping_add(1));
            table.insert(number, guest);
            number
        };
        Self {
            stream,
            idle: Box::pin(time::sleep(IDLE_MAX)),
            must_go: Box::pin(must_go.cancelled_owned()),
            number,
            guests,
            _permit: permit,
        }
    }

    fn served(&mut self) {
        let now = Instant::now();
        self.idle.as_mut().reset(now + IDLE_MAX);
        if let Some(guest) = self.guests.table().get_mut(&self.number) {
            guest.served = now;
        }
    }

    /// The end of patience, for an operation that waits.
    fn patience<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let is_over = self.idle.as_mut().poll(context).is_ready()
            || self.must_go.as_mut().poll(context).is_ready();
        if is_over {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.guests.table().remove(&self.number);
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.patience(context) {
            Poll::Pending => Pin::new(&mut self.stream).poll_read(context, buffer),
            over @ Poll::Ready(_) => over,
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if written.is_ready() {
            self.served();
            return written;
        }
        self.patience(context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Longer than a join may take to be answered, so that only a silent client is cut off.
const IDLE_MAX: Duration = Duration::from_secs(40);

const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a newcomer gets at least before it may have to make room: time to ask and to be answered.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// An answer takes milliseconds, and the program has five seconds to end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::JoinSet,
    };

    use super::*;

    /// A server of lines with two places: answers each byte with itself.
    fn serve() -> (SocketAddr, JoinSet<()>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut sockets = Sockets::new(listener, 2).unwrap();
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut guests = JoinSet::new();
            loop {
                let (mut socket, _) = sockets.accept().await;
                guests.spawn(async move {
                    let mut byte = [0];
                    while let Ok(1) = socket.read(&mut byte).await {
                        if byte != *b"." && socket.write_all(&byte).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        (address, server)
    }

    async fn answers(stream: &mut TcpStream) -> bool {
        let mut answer = [0];
        let asked = stream.write_all(b"?").await;
        let read = time::timeout(Duration::from_secs(5), stream.read(&mut answer)).await;
        asked.is_ok() && matches!(read, Ok(Ok(1)))
    }

    #[tokio::test]
    async fn who_was_served_least_lately_makes_room_and_trickling_does_not_help() {
        let (address, _server) = serve();
        let mut trickle = TcpStream::connect(address).await.unwrap();
        let mut busy = TcpStream::connect(address).await.unwrap();
        for _ in 0..12 {
            trickle.write_all(b".").await.unwrap();
            assert!(answers(&mut busy).await);
            time::sleep(Duration::from_millis(100)).await;
        }
        let mut newcomer = TcpStream::connect(address).await.unwrap();
        assert!(answers(&mut newcomer).await);
        assert!(answers(&mut busy).await, "it was served just now");
        assert!(!answers(&mut trickle).await);
    }

    #[tokio::test]
    async fn a_place_that_becomes_free_is_taken_without_sending_anybody_away() {
        let (address, _server) = serve();
        let mut stays = TcpStream::connect(address).await.unwrap();
        assert!(answers(&mut stays).await);
        for _ in 0..5 {
            let mut comes_and_goes = TcpStream::connect(address).await.unwrap();
            assert!(answers(&mut comes_and_goes).await);
        }
        assert!(answers(&mut stays).await);
    }

    #[tokio::test]
    async fn half_a_request_does_not_keep_the_program_from_ending() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sockets = Sockets::new(listener, 2).unwrap();
        let shutdown = CancellationToken::new();
        let stragglers = sockets.end_stragglers(shutdown.clone());
        let router = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
        let server = axum::serve(sockets, router)
            .with_graceful_shutdown(shutdown.clone().cancelled_owned())
            .into_future();
        let guest = async {
            let mut half = TcpStream::connect(address).await.unwrap();
            half.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
            let mut whole = TcpStream::connect(address).await.unwrap();
            (whole.write_all(b"GET / HTTP/1.0\r\n\r\n").await).unwrap();
            let mut answer = String::new();
            whole.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with("hello"), "{answer}");
            shutdown.cancel();
            half
        };
        let ended = async {
            tokio::select! {
                ended = server => ended.unwrap(),
                never = stragglers => match never {},
            }
        };
        let both = async { tokio::join!(guest, ended) };
        time::timeout(LAST_ANSWERS * 2, both).await.unwrap();
    }
}
