//! The tunnel between a connector and a relay: what travels on its streams, over QUIC or TCP, and which unit goes next.
//!
//! Normative text: `shared/PROTOCOL.md`. Everything below is pure: bytes and times in, bytes and decisions out.

pub mod clock;
pub mod close;
pub mod control;
pub mod frame;
pub mod scheduler;
pub mod unit;

/// The application protocol (ALPN) of the tunnel, version 1.
pub const ALPN: &[u8] = b"firstmile/1";

/// The version that both ends of this build speak.
pub const VERSION: u32 = 1;

#[cfg(test)]
mod protocol_tests;
