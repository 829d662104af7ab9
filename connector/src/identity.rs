//! Who this connector is: the key and certificate in its state folder.

use std::path::Path;

use firstmile_shared::{exit::Failure, tls::Identity};

/// The identity of a state folder; made at the first start. Reads, and once writes, the disk.
pub fn load(state_dir: &Path) -> Result<Identity, Failure> {
    Identity::load_or_create(&state_dir.join(FILE))
}

const FILE: &str = "identity.pem";
