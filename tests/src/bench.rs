//! Measuring the tunnel: paced synthetic feeds, a hop in a process of its own, and a counting far end.
//!
//! Machines and their neighbours drift, so nothing is stated alone: each figure stands beside floors of the same run,
//! interleaved with it. A floor is a bare hop over the same QUIC settings: TCP in, QUIC out, no RTMP and no policy.

pub mod feed;
pub mod hop;
pub mod meter;
pub mod studio;
