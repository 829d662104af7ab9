//! Takes one encoder's connection as the relay does, and writes what it sent: a seed for `session`.
//!
//! `capture FILE LEN -- COMMAND…`: `URL` in the command is where it is to publish; `LEN` bytes are kept at most.

use std::{
    env, fs,
    io::{Read, Write},
    net::TcpListener,
    process::Command,
};

use bytes::BytesMut;
use firstmile_relay::rtmp::session::{Event, Session};

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [file, len, dashes, program, rest @ ..] = &arguments[..] else {
        eprintln!("capture FILE LEN -- COMMAND… (with URL where it is to publish)");
        std::process::exit(2);
    };
    assert_eq!(dashes, "--");
    let len: usize = len.parse().expect("a number of bytes");
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("rtmp://{}/truck1/abcd-efgh-jkmn", listener.local_addr()?);
    let mut encoder = Command::new(program)
        .args(rest.iter().map(|word| word.replace("URL", &url)))
        .spawn()?;
    let (mut socket, _) = listener.accept()?;
    let mut session = Session::new(0, i64::MAX, 1);
    let (mut input, mut seed, mut buffer) = (BytesMut::new(), Vec::new(), [0; 4096]);
    loop {
        let read = socket.read(&mut buffer)?;
        if read == 0 || seed.len() >= len {
            break;
        }
        seed.extend_from_slice(&buffer[..read]);
        input.extend_from_slice(&buffer[..read]);
        loop {
            if session.handle_input(0, &mut input).is_err() {
                break;
            }
            let mut is_idle = session.take_messages() == 0;
            while let Some(bytes) = session.poll_transmit() {
                is_idle = false;
                socket.write_all(&bytes)?;
            }
            while let Some(event) = session.poll_event() {
                is_idle = false;
                if matches!(event, Event::PublishRequested(_)) {
                    session.accept_publish();
                }
            }
            if is_idle {
                break;
            }
        }
    }
    drop(socket);
    encoder.kill()?;
    encoder.wait()?;
    seed.truncate(len);
    fs::write(file, &seed)?;
    println!("{file}: {} bytes", seed.len());
    Ok(())
}
