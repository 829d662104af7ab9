//! The relay: takes RTMP from encoders in the field and hands each feed to the studio that owns it.

pub mod auth;
pub mod config;
pub mod date;
pub mod metrics;
pub mod registry;
pub mod rtmp;
pub mod store;
pub mod tunnel;
