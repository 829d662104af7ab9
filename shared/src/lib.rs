//! What the relay and the connector must agree on, or would otherwise write twice.
//!
//! Pure parts ([`media`], [`tunnel`], [`token`], [`secret`], [`text`], [`backoff`]) name no sockets, clocks or threads.
//! The rest is the thin shell both programs stand on: TLS identity, QUIC transport settings, TCP where there is no QUIC, configuration,
//! supervision, local control and logging.

pub mod admin;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod date;
pub mod exit;
pub mod http;
pub mod media;
pub mod net;
pub mod ops;
pub mod os;
pub mod quic;
pub mod secret;
pub mod supervisor;
pub mod takeover;
pub mod tcp;
pub mod telemetry;
pub mod text;
pub mod tls;
pub mod token;
pub mod tunnel;
