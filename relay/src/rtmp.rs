//! RTMP ingest as pure code: bytes and a time in; bytes, events and a deadline out.
//!
//! Nothing here knows sockets, tasks, clocks or random numbers; the shell around it is [`crate::ingest`]. This is
//! the relay's public attack surface, so: memory follows the bytes that were *received*, never those announced;
//! nothing recurses as deep as a peer likes; no arithmetic and no index is taken on trust (the lints below).
//!
//! From the outside in: [`handshake`], [`chunk`] (messages out of interleaved chunks), [`amf0`] and [`amf3`]
//! (values), [`message`] (commands and controls), [`flv`] (tags to access units), [`session`] (the conversation).
//! Source: Adobe's RTMP specification 1.0, and what real encoders do instead.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "a test that goes wrong may panic"
    )
)]

pub mod amf0;
pub mod amf3;
pub mod chunk;
pub mod flv;
pub mod handshake;
pub mod message;
pub mod session;
#[cfg(test)]
mod vectors;
