//! A synthetic encoder: publishes given access units by RTMP, without coding anything.
//!
//! For tests that need many encoders, exact times, or one that misbehaves; what a real one sends is `ffmpeg`'s part
//! (see the harness). It speaks with the relay's own chunk and value writers, so it proves nothing about their
//! correctness: real encoders and the relay's tests do.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use firstmile_relay::rtmp::{
    amf0::Value,
    chunk::{self, Message, kind},
    handshake::BLOCK_LEN,
    message::{Command, Incoming},
};
use firstmile_shared::media::{AccessUnit, Codec, MediaKind};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{self, Instant},
};

/// One encoder's connection.
#[derive(Debug)]
pub struct SyntheticEncoder {
    socket: TcpStream,
    chunks: chunk::Encoder,
    answers: chunk::Decoder,
    input: BytesMut,
    output: BytesMut,
    /// The configurations sent last, by kind of track.
    video_config: Option<Bytes>,
    audio_config: Option<Bytes>,
}

impl SyntheticEncoder {
    /// Connects and shakes hands, plainly.
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        Self::connect_from(Ipv4Addr::LOCALHOST.into(), address).await
    }

    /// Likewise, from an address of its own: another encoder than those from elsewhere.
    pub async fn connect_from(from: IpAddr, address: SocketAddr) -> anyhow::Result<Self> {
        let socket = if from.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.bind(SocketAddr::new(from, 0))?;
        let mut socket = socket.connect(address).await?;
        socket.set_nodelay(true)?;
        let mut hello = vec![0; 1 + 2 * BLOCK_LEN];
        hello[0] = 3;
        socket.write_all(&hello).await?;
        socket.read_exact(&mut hello).await?;
        let mut encoder = Self {
            socket,
            chunks: chunk::Encoder::default(),
            answers: chunk::Decoder::new(ANSWERS),
            input: BytesMut::new(),
            output: BytesMut::new(),
            video_config: None,
            audio_config: None,
        };
        encoder
            .chunks
            .set_chunk_size(&mut encoder.output, CHUNK_SIZE);
        Ok(encoder)
    }

    /// Publishes as `app` and `stream` (studio and key); an error holds the relay's status code, if it gave one.
    pub async fn publish(&mut self, app: &str, stream: &str) -> anyhow::Result<()> {
        let connect = Command {
            name: "connect".to_owned(),
            transaction: 1.0,
            object: Value::object([
                ("app", Value::string(app)),
                ("flashVer", Value::string("synthetic")),
            ]),
            arguments: Vec::new(),
        };
        self.command(&connect, 0);
        for (name, transaction) in [("releaseStream", 2.0), ("FCPublish", 3.0)] {
            self.command(&call(name, transaction, &[stream]), 0);
        }
        self.command(&call("createStream", 4.0, &[]), 0);
        self.command(&call("publish", 5.0, &[stream, "live"]), STREAM);
        self.flush().await?;
        loop {
            let code = self.next_status().await?;
            match code.as_str() {
                "NetConnection.Connect.Success" => {}
                // Told once for FCPublish and once for publish; only the latter has `onStatus`.
                "NetStream.Publish.Start" => return Ok(()),
                code => bail!("refused: {code}"),
            }
        }
    }

    /// Cuts messages into chunks of this size from now on, 1 to 2^31 - 1 bytes.
    pub fn set_chunk_size(&mut self, size: u32) {
        self.chunks.set_chunk_size(&mut self.output, size);
    }

    /// Sends a unit, and its configuration first where that is new.
    pub async fn send(&mut self, unit: &AccessUnit) -> anyhow::Result<()> {
        self.queue(unit)?;
        self.flush().await
    }

    /// Sends units when they are due: `start` is the moment of media time 0.
    pub async fn send_paced(
        &mut self,
        units: impl IntoIterator<Item = AccessUnit>,
        start: Instant,
    ) -> anyhow::Result<()> {
        for unit in units {
            let due = Duration::from_micros(u64::try_from(unit.dts_us).unwrap_or(0));
            time::sleep_until(start + due).await;
            self.send(&unit).await?;
        }
        Ok(())
    }

    /// Sends two units with their chunks interleaved, as encoders with one queue per track do.
    pub async fn send_interleaved(
        &mut self,
        one: &AccessUnit,
        other: &AccessUnit,
    ) -> anyhow::Result<()> {
        let [mut one, mut other] = [self.chunks_of(one)?, self.chunks_of(other)?];
        while !one.is_empty() || !other.is_empty() {
            for chunks in [&mut one, &mut other] {
                if !chunks.is_empty() {
                    self.output.put(chunks.remove(0));
                }
            }
        }
        self.flush().await
    }

    /// Sends bytes as they are, right or wrong.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.output.extend_from_slice(bytes);
        self.flush().await
    }

    /// Sends a whole message, right or wrong.
    pub async fn send_message(&mut self, message: &Message) -> anyhow::Result<()> {
        self.chunks.encode(&mut self.output, 8, message);
        self.flush().await
    }

    /// Ends the publish in good order; the connection stays open until this is dropped.
    pub async fn unpublish(&mut self, stream: &str) -> anyhow::Result<()> {
        self.command(&call("FCUnpublish", 6.0, &[stream]), 0);
        self.command(&call("deleteStream", 7.0, &[]), 0);
        self.flush().await
    }

    /// Waits until the relay closes the connection.
    pub async fn closed(&mut self) {
        while let Ok(1..) = self.socket.read_buf(&mut self.input).await {
            self.input.clear();
        }
    }

    fn queue(&mut self, unit: &AccessUnit) -> anyhow::Result<()> {
        let sent = match unit.kind() {
            MediaKind::Video => &mut self.video_config,
            MediaKind::Audio | MediaKind::Data => &mut self.audio_config,
        };
        if unit.config.is_some() && *sent != unit.config {
            sent.clone_from(&unit.config);
            if let Some(config) = &unit.config {
                let tag = tag(unit, config, true)?;
                self.encode(&tag);
            }
        }
        let tag = tag(unit, &unit.payload, false)?;
        self.encode(&tag);
        Ok(())
    }

    fn encode(&mut self, message: &Message) {
        self.chunks
            .encode(&mut self.output, chunk_stream(message), message);
    }

    fn chunks_of(&self, unit: &AccessUnit) -> anyhow::Result<Vec<Bytes>> {
        let message = tag(unit, &unit.payload, false)?;
        ensure!(
            message.timestamp < 0xff_ffff,
            "extended times are not interleaved"
        );
        let mut bytes = BytesMut::new();
        self.chunks
            .encode(&mut bytes, chunk_stream(&message), &message);
        let mut chunks = Vec::new();
        let mut header_len = 12;
        while !bytes.is_empty() {
            let len = bytes.len().min(header_len + CHUNK_SIZE as usize);
            chunks.push(bytes.split_to(len).freeze());
            header_len = 1;
        }
        Ok(chunks)
    }

    fn command(&mut self, command: &Command, stream: u32) {
        self.chunks
            .encode(&mut self.output, 3, &command.to_message(stream));
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        // Acknowledgements are read away, so that they can't fill the socket of an encoder that runs for hours.
        let mut answers = [0; 256];
        match self.socket.try_read(&mut answers) {
            Ok(0) => bail!("the relay closed the connection"),
            Ok(len) => self.input.extend_from_slice(&answers[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        while self.answers.poll(&mut self.input)?.is_some() {}
        self.socket.write_all(&self.output).await?;
        self.output.clear();
        Ok(())
    }

    /// The code of the next `_result`, `_error` or `onStatus` that has one.
    async fn next_status(&mut self) -> anyhow::Result<String> {
        loop {
            while let Some(message) = self.answers.poll(&mut self.input)? {
                if let Incoming::Command(command) = Incoming::parse(message)?
                    && command.name != "onFCPublish"
                    && let Some(code) = command.arguments.first().and_then(|info| info.get("code"))
                {
                    return Ok(code.as_str().unwrap_or_default().to_owned());
                }
            }
            let read = time::timeout(PATIENCE, self.socket.read_buf(&mut self.input)).await;
            if read.context("no answer from the relay")?? == 0 {
                bail!("the relay closed the connection");
            }
        }
    }
}

/// A feed that weighs as much as a real one and decodes to nothing: for the null output and for benches.
#[derive(Clone, Copy, Debug)]
pub struct SyntheticFeed {
    /// Pictures a second.
    pub fps: u32,
    /// Pictures from one keyframe to the next.
    pub gop: u32,
    /// Bits a second of the pictures.
    pub video_bps: u32,
    /// A keyframe weighs as much as this many other pictures.
    pub keyframe_weight: u32,
    /// Every second picture between keyframes is one that no other refers to, as with B-pictures.
    pub has_disposables: bool,
    /// Length, milliseconds.
    pub duration_ms: u32,
}

impl Default for SyntheticFeed {
    /// 1080p30 at 6 Mbit/s with keyframes of 164 kB every 2 s, as measured of x264.
    fn default() -> Self {
        Self {
            fps: 30,
            gop: 60,
            video_bps: 6_000_000,
            keyframe_weight: 7,
            has_disposables: false,
            duration_ms: 10_000,
        }
    }
}

impl SyntheticFeed {
    /// Its units in the order of their times: pictures, and 128 kbit/s of sound in blocks of 1024 samples at 48 kHz.
    pub fn units(self) -> impl Iterator<Item = AccessUnit> + Send {
        let mut pictures = (0..).map(move |n| self.picture(n)).peekable();
        let mut blocks = (0..).map(sound).peekable();
        let end_us = i64::from(self.duration_ms) * 1_000;
        std::iter::from_fn(move || {
            let sound_first = blocks.peek()?.dts_us < pictures.peek()?.dts_us;
            if sound_first {
                blocks.next()
            } else {
                pictures.next()
            }
        })
        .take_while(move |unit| unit.dts_us < end_us)
    }

    fn picture(self, number: u32) -> AccessUnit {
        let keyframe = number.is_multiple_of(self.gop);
        let disposable = self.has_disposables && number % self.gop % 2 == 1;
        let gop_len = self.video_bps / 8 / self.fps * self.gop;
        let weight = if keyframe { self.keyframe_weight } else { 1 };
        let len = gop_len / (self.gop - 1 + self.keyframe_weight) * weight;
        // The head of a slice that says I or P, and whether it is referred to; then nothing that a slice would have.
        let mut payload = BytesMut::with_capacity(len as usize);
        payload.put_u32(len.max(16) - 4);
        payload.put_slice(match (keyframe, disposable) {
            (true, _) => &[0x65, 0x88],
            (false, false) => &[0x41, 0x9a],
            (false, true) => &[0x01, 0x9a],
        });
        payload.resize(len.max(16) as usize, 0x5a);
        AccessUnit {
            codec: Codec::H264,
            track: 0,
            keyframe,
            disposable,
            discontinuity: false,
            // RTMP's times are milliseconds.
            dts_us: i64::from(number) * 1_000 / i64::from(self.fps) * 1_000,
            cts_us: 0,
            config: keyframe.then(|| Bytes::from_static(AVCC)),
            payload: payload.freeze(),
        }
    }
}

fn sound(number: u32) -> AccessUnit {
    AccessUnit {
        codec: Codec::Aac,
        track: 0,
        keyframe: true,
        disposable: false,
        discontinuity: false,
        dts_us: i64::from(number) * 1_024 / 48 * 1_000,
        cts_us: 0,
        config: Some(Bytes::from_static(&[0x11, 0x90])),
        payload: Bytes::from_static(&[0x21; 341]),
    }
}

/// The FLV tag of a unit or of its configuration.
fn tag(unit: &AccessUnit, data: &Bytes, is_config: bool) -> anyhow::Result<Message> {
    let mut body = BytesMut::with_capacity(data.len() + 5);
    let packet_type = u8::from(!is_config);
    let kind = match unit.codec {
        Codec::H264 => {
            body.put_u8(if unit.keyframe { 0x17 } else { 0x27 });
            body.put_u8(packet_type);
            let cts_ms = if is_config { 0 } else { unit.cts_us / 1_000 };
            body.put_int(cts_ms.into(), 3);
            kind::VIDEO
        }
        Codec::Aac => {
            body.put_slice(&[0xaf, packet_type]);
            kind::AUDIO
        }
        codec => bail!("{} has no classic FLV tag", codec.name()),
    };
    body.put_slice(data);
    Ok(Message {
        kind,
        stream: STREAM,
        timestamp: u32::try_from((unit.dts_us / 1_000) & 0xffff_ffff)?,
        payload: body.freeze(),
    })
}

fn chunk_stream(message: &Message) -> u8 {
    if message.kind == kind::VIDEO { 6 } else { 4 }
}

fn call(name: &str, transaction: f64, arguments: &[&str]) -> Command {
    Command {
        name: name.to_owned(),
        transaction,
        object: Value::Null,
        arguments: arguments.iter().map(|text| Value::string(text)).collect(),
    }
}

const STREAM: u32 = 1;
const CHUNK_SIZE: u32 = 4096;
const PATIENCE: Duration = Duration::from_secs(10);

const ANSWERS: chunk::Limits = chunk::Limits {
    message_len_max: 64 * 1024,
    unfinished_len_max: 64 * 1024,
    chunk_streams_max: 16,
};

/// 1280x720 at 30 a second, as x264 writes it.
const AVCC: &[u8] =
    b"\x01\x42\xc0\x1f\xff\xe1\x00\x17\x67\x42\xc0\x1f\xda\x01\x40\x16\xec\x04\x40\x00\
    \x00\x03\x00\x40\x00\x00\x0f\x23\xc6\x0c\xa8\x01\x00\x04\x68\xce\x0f\xc8";

#[cfg(test)]
mod tests {
    use firstmile_relay::rtmp::session::{Event, Progress, Session};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn the_synthetic_feed_has_its_rate_and_its_rhythm() {
        let units: Vec<_> = SyntheticFeed::default().units().collect();
        let video: Vec<_> = units
            .iter()
            .filter(|unit| unit.kind() == MediaKind::Video)
            .collect();
        assert_eq!(video.len(), 300);
        assert_eq!(video.iter().filter(|unit| unit.keyframe).count(), 5);
        let bits: usize = video.iter().map(|unit| unit.payload.len() * 8).sum();
        assert!((59_000_000..61_000_000).contains(&bits), "{bits} in 10 s");
        assert!(units.is_sorted_by_key(|unit| unit.dts_us));
        assert_eq!(units.len() - video.len(), 469, "blocks of 21.3 ms");
    }

    #[tokio::test]
    async fn what_it_sends_comes_out_of_the_relays_session() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let feed = SyntheticFeed {
            duration_ms: 2_500,
            ..SyntheticFeed::default()
        };
        let units: Vec<_> = feed.units().collect();
        let sent = async {
            let mut encoder = SyntheticEncoder::connect(address).await.unwrap();
            encoder.publish("truck1", "front-camera").await.unwrap();
            for unit in &units {
                encoder.send(unit).await.unwrap();
            }
            encoder
                .send_interleaved(&units[0], &units[1])
                .await
                .unwrap();
            encoder.unpublish("front-camera").await.unwrap();
        };
        let ((), mut received) = tokio::join!(sent, receive(listener));
        let mut interleaved = received.split_off(units.len());
        interleaved.sort_by_key(AccessUnit::kind);
        assert_eq!(received, units);
        assert_eq!(interleaved.len(), 2);
        assert_eq!(interleaved[0].payload, units[0].payload);
        assert_eq!(interleaved[1].payload, units[1].payload);
    }

    /// The units of the first connection, until it ends its publish.
    async fn receive(listener: TcpListener) -> Vec<AccessUnit> {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut session = Session::new(0, 10_000_000, 1);
        let (mut input, mut units) = (BytesMut::new(), Vec::new());
        loop {
            let progress = session.handle_input(0, &mut input).unwrap();
            while let Some(event) = session.poll_event() {
                match event {
                    Event::PublishRequested(_) => session.accept_publish(),
                    Event::Unit(unit) => units.push(unit),
                    Event::Unpublished => return units,
                    Event::Metadata { .. } | Event::Unsupported(_) | Event::Tracks(_) => {}
                }
            }
            while let Some(bytes) = session.poll_transmit() {
                socket.write_all(&bytes).await.unwrap();
            }
            if progress == Progress::NeedsInput {
                assert_ne!(socket.read_buf(&mut input).await.unwrap(), 0);
            }
        }
    }
}
