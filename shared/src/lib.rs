//! What the relay and the connector must agree on, or would otherwise write twice.
//!
//! Pure parts ([`media`], [`tunnel`], [`token`], [`secret`], [`backoff`]) name no sockets, clocks or threads.
//! The rest is the thin shell both programs stand on: TLS identity, QUIC transport settings, configuration,
//! supervision, local control and logging.

pub mod backoff;
pub mod media;
pub mod secret;
pub mod tls;
pub mod token;
pub mod tunnel;
