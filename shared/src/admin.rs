//! Local control: a command line talks to the running program over a socket in the state folder.
//!
//! One connection carries one request and one answer, each a line of JSON. Only the program's own user and root
//! are listened to. The socket is in a folder that nobody else can enter, so its name is no secret.

use std::{fmt, future::Future, io, path::Path, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    task::JoinSet,
    time,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::os::{self, ControlListener, ControlStream};

/// Binds the control socket of a state folder. The state lock must be held.
pub fn bind(state_dir: &Path) -> io::Result<ControlListener> {
    os::bind_control(&state_dir.join(SOCKET))
}

/// Answers requests until `shutdown`; what is being answered then is finished first, if that takes no longer than
/// [`LAST_ANSWERS`].
pub async fn serve<Request, Response, Handler, Answer>(
    listener: ControlListener,
    shutdown: CancellationToken,
    handler: Handler,
) where
    Request: DeserializeOwned + Send + 'static,
    Response: Serialize + Send + 'static,
    Handler: Fn(Request) -> Answer + Clone + Send + 'static,
    Answer: Future<Output = Response> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            // At the limit, finished ones make room; more wait in the backlog.
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    let (handler, shutdown) = (handler.clone(), shutdown.clone());
                    connections.spawn(async move {
                        let answer = answer(stream, shutdown, handler);
                        match time::timeout(ANSWER_TIMEOUT, answer).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => debug!(%error, "local control connection"),
                            Err(_) => warn!("a local control request took too long"),
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "local control socket");
                    time::sleep(ACCEPT_RETRY).await;
                }
            },
        }
    }
    let last = async { while connections.join_next().await.is_some() {} };
    if time::timeout(LAST_ANSWERS, last).await.is_err() {
        // They do not read what they asked for.
        connections.shutdown().await;
    }
}

async fn answer<Request, Response, Handler, Answer>(
    stream: ControlStream,
    shutdown: CancellationToken,
    handler: Handler,
) -> io::Result<()>
where
    Request: DeserializeOwned,
    Response: Serialize,
    Handler: Fn(Request) -> Answer,
    Answer: Future<Output = Response>,
{
    if !os::is_trusted_peer(&stream) {
        return Err(io::Error::other("another user's process asked"));
    }
    let mut stream = BufReader::new(stream);
    // A command line asks as soon as it is connected. Who does not must not take a place from those who do, nor keep
    // the program from ending.
    let request = time::timeout(REQUEST_TIMEOUT, read_line(&mut stream));
    let Some(request) = shutdown.run_until_cancelled(request).await else {
        return Ok(());
    };
    let request = serde_json::from_slice(&request??).map_err(io::Error::other)?;
    let mut response = serde_json::to_vec(&handler(request).await).map_err(io::Error::other)?;
    response.push(b'\n');
    stream.get_mut().write_all(&response).await?;
    stream.get_mut().shutdown().await
}

/// Why a request got no answer.
#[derive(Debug)]
pub enum AdminError {
    /// No program runs with this state folder.
    NotRunning,
    /// The program runs and did not answer, or answered something else.
    Io(io::Error),
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning => f.write_str("the program does not run with this state folder"),
            Self::Io(error) => write!(f, "the running program did not answer: {error}"),
        }
    }
}

impl std::error::Error for AdminError {}

/// Asks the program that runs with this state folder.
pub async fn request<Request, Response>(
    state_dir: &Path,
    request: &Request,
) -> Result<Response, AdminError>
where
    Request: Serialize,
    Response: DeserializeOwned,
{
    let stream = os::connect_control(&state_dir.join(SOCKET))
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AdminError::NotRunning,
            _ => AdminError::Io(error),
        })?;
    let exchange = async {
        let mut stream = BufReader::new(stream);
        let mut line = serde_json::to_vec(request).map_err(io::Error::other)?;
        line.push(b'\n');
        stream.get_mut().write_all(&line).await?;
        let response = read_line(&mut stream).await?;
        serde_json::from_slice(&response).map_err(io::Error::other)
    };
    match time::timeout(ANSWER_TIMEOUT, exchange).await {
        Ok(result) => result.map_err(AdminError::Io),
        Err(_) => Err(AdminError::Io(io::ErrorKind::TimedOut.into())),
    }
}

async fn read_line(stream: &mut BufReader<ControlStream>) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    stream
        .take(LINE_LEN_MAX)
        .read_until(b'\n', &mut line)
        .await?;
    if line.last() == Some(&b'\n') {
        Ok(line)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

const SOCKET: &str = "control.sock";
const CONNECTIONS_MAX: usize = 16;
/// A join waits for the network: dialling, enrolling and storing take this long at most.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A busy machine included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// A change takes milliseconds, and the program has five seconds to end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// `publishers --json` of a thousand encoders stays under 1 MiB.
const LINE_LEN_MAX: u64 = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_question_is_answered_also_in_a_folder_with_a_long_name() {
        for name in ["short".to_owned(), "l".repeat(120)] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path().join(name);
            os::create_private_dir(&folder).unwrap();
            assert!(matches!(
                request::<_, u32>(&folder, &1u32).await,
                Err(AdminError::NotRunning)
            ));

            let shutdown = CancellationToken::new();
            let listener = bind(&folder).unwrap();
            let server = serve(listener, shutdown.clone(), |n: u32| async move { n + 1 });
            let client = async {
                assert_eq!(request::<_, u32>(&folder, &41u32).await.unwrap(), 42);
                // A request of another shape gets no answer, and the next one does.
                assert!(matches!(
                    request::<_, u32>(&folder, &"x").await,
                    Err(AdminError::Io(_))
                ));
                assert_eq!(request::<_, u32>(&folder, &1u32).await.unwrap(), 2);
                shutdown.cancel();
            };
            tokio::join!(server, client);
        }
    }

    #[tokio::test]
    async fn who_connects_and_does_not_ask_keeps_nobody_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let shutdown = CancellationToken::new();
        let listener = bind(path).unwrap();
        let server = serve(listener, shutdown.clone(), |n: u32| async move {
            vec![n; 1 << 20]
        });
        let clients = async {
            let mut idle = Vec::new();
            for _ in 0..CONNECTIONS_MAX {
                let mut stream = os::connect_control(&path.join(SOCKET)).await.unwrap();
                stream.write_all(b"4").await.unwrap();
                idle.push(stream);
            }
            let answer = time::timeout(REQUEST_TIMEOUT * 2, request::<_, Vec<u32>>(path, &7u32));
            assert_eq!(answer.await.unwrap().unwrap()[0], 7);
            // One that asks and does not read, and one that has not asked.
            let mut deaf = os::connect_control(&path.join(SOCKET)).await.unwrap();
            deaf.write_all(b"7\n").await.unwrap();
            deaf.readable().await.unwrap();
            idle.push(deaf);
            idle.push(os::connect_control(&path.join(SOCKET)).await.unwrap());
            shutdown.cancel();
            idle
        };
        let both = async { tokio::join!(server, clients) };
        let longest = REQUEST_TIMEOUT * 2 + LAST_ANSWERS * 2;
        time::timeout(longest, both).await.unwrap();
    }
}
