//! The relay: takes RTMP from encoders in the field and hands each feed to the studio that owns it.
//!
//! [`server::Relay::start`] starts all of it; the program and the tests use the same call.

pub mod address;
pub mod auth;
pub mod cli;
pub mod config;
pub mod control;
pub mod doctor;
pub mod http;
pub mod ingest;
pub mod metrics;
pub mod registry;
pub mod rtmp;
pub mod server;
pub mod store;
pub mod tunnel;
