//! The studio's side: dials out to relays, decodes each feed and puts it on the studio's network as an NDI® source.

pub mod address;
pub mod cli;
pub mod config;
pub mod control;
pub mod decode;
pub mod events;
pub mod http;
pub mod identity;
pub mod lines;
pub mod metrics;
pub mod os;
pub mod output;
pub mod playout;
pub mod program;
pub mod spare;
pub mod status;
pub mod tunnel;
pub mod unit_log;

pub use program::Connector;
