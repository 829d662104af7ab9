//! The studio's side: takes each line's feed from the relay and puts it on the studio's network.

pub mod output;
pub mod playout;
