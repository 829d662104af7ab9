//! Everything the end-to-end tests, the demo and the benches share: a stamped camera, a viewer that reads the stamps, and
//! the programs themselves as a running show.

pub mod authority;
pub mod bench;
pub mod encoder;
pub mod fight;
pub mod forwarder;
pub mod harness;
pub mod hostile;
pub mod kills;
#[cfg(target_os = "linux")]
pub mod lab;
pub mod lagging;
pub mod link;
pub mod metrics;
pub mod ndi;
pub mod picture;
#[cfg(unix)]
pub mod place;
pub mod screen;
pub mod slate;
pub mod source;
pub mod stamp;
pub mod viewer;
pub mod watch;
