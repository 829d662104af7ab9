#!/bin/sh
# check-dependencies.sh: cargo-deny (deny.toml). Bans, licences and sources need no network; security advisories are
# checked against the database when it is on this machine or can be fetched, and otherwise said to be unchecked.
set -eu
cd "$(dirname "$0")/../.."
cargo=${CARGO:-cargo}

if ! "$cargo" deny --version >/dev/null 2>&1; then
    cat >&2 <<'TEXT'
check: cargo-deny is not installed, so licences, bans and sources are unchecked. Install it with
    cargo install --locked cargo-deny
TEXT
    exit 1
fi

"$cargo" deny --offline --locked check --hide-inclusion-graph bans licenses sources

if "$cargo" deny fetch db >/dev/null 2>&1 || ls "${CARGO_HOME:-$HOME/.cargo}"/advisory-dbs/*/.git >/dev/null 2>&1; then
    "$cargo" deny --offline --locked check --hide-inclusion-graph advisories
else
    echo "advisories not checked: the database is not on this machine and cannot be fetched"
fi
