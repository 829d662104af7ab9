//! A conversation by operations: well-formed messages in senseless order, time, decisions, and noise between them.

#![no_main]

use firstmile_fuzz::operations::{Operation, converse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|operations: Vec<Operation>| {
    converse(&operations);
});
