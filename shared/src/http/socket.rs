//! The sockets of an HTTP listener: not too many at once, and none that only waits.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
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
use tracing::warn;

/// Accepts up to a number of connections; the rest waits in the kernel's backlog.
#[derive(Debug)]
pub struct Sockets {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

impl Sockets {
    /// Takes over a bound listener.
    pub fn new(listener: std::net::TcpListener, connections_max: usize) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: TcpListener::from_std(listener)?,
            permits: Arc::new(Semaphore::new(connections_max)),
        })
    }
}

impl Listener for Sockets {
    type Io = Socket;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Socket, SocketAddr) {
        let Ok(permit) = self.permits.clone().acquire_owned().await else {
            unreachable!("the semaphore is never closed");
        };
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => return (Socket::new(stream, permit), peer),
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

/// A connection that ends when nothing moves on it for 40 s.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Socket {
    fn new(stream: TcpStream, permit: OwnedSemaphorePermit) -> Self {
        Self {
            stream,
            idle: Box::pin(time::sleep(IDLE_MAX)),
            _permit: permit,
        }
    }

    /// What the operation says, or the end of patience.
    fn guard<T>(
        &mut self,
        context: &mut Context<'_>,
        operation: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if operation.is_ready() {
            self.idle.as_mut().reset(Instant::now() + IDLE_MAX);
            return operation;
        }
        match self.idle.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let operation = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.guard(context, operation)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let operation = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.guard(context, operation)
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
