//! The studio's side: dials out to relays, decodes each feed and puts it on the studio's network as an NDI® source.

pub mod decode;
pub mod lines;
pub mod os;
pub mod output;
pub mod playout;
