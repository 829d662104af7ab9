#!/bin/sh
# setup.sh: makes this clone ready to build, test and show. The only step that needs a network; run again at will.
#
# 1. system packages (Debian, Ubuntu; elsewhere it names what is missing), with sudo when not root
# 2. crates and a build of everything the tests and the demo run
# 3. the NDI runtime: an installed one, else a try-out copy after asking (see ndi-runtime.sh)
#
# Environment: NDI_ACCEPT=1 accepts NDI's licence without asking; CARGO names another cargo.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin
CARGO=${CARGO:-cargo}
here=tests/scripts

step() { printf '\n==> %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# Build: compiler and C headers for FFmpeg (bindings are made by libclang) and SQLite.
# Run: FFmpeg as the encoder of the demo and the tests, Avahi's client library (libndi does not load without it),
# unshare and ip for the private network namespace, kill and ps for the tests, pip and its Python to fetch the NDI runtime;
# for the laboratory of bad links (`make test-slow-lab`) NAT, ping, and SRT to compare with.
packages="build-essential pkg-config libclang-dev
    libavcodec-dev libavformat-dev libavutil-dev libswscale-dev libswresample-dev
    ffmpeg libavahi-client3 libavahi-common3 iproute2 procps util-linux ca-certificates
    python3 python3-pip
    conntrack nftables iputils-ping srt-tools"

step "1/3 System packages"
. "$here/debian-packages.sh"
# Word splitting is meant: a list.
if ! install_missing $packages; then
    echo "Not Debian or Ubuntu: looking for the programs and libraries themselves."
    for program in cc pkg-config ffmpeg ip ps unshare python3 nft conntrack ping srt-live-transmit; do
        command -v "$program" >/dev/null || die "no '$program'; install this distribution's equivalents of:
$packages"
    done
    for library in libavcodec libavformat libavutil libswscale libswresample; do
        pkg-config --exists "$library" || die "no development files of $library (FFmpeg)"
    done
fi

command -v "$CARGO" >/dev/null || die "no cargo: install Rust from https://rustup.rs, then run this again"

step "2/3 Build (about ten minutes on two cores the first time)"
"$CARGO" fetch --locked
# The one build that tests and demo share: own code lightly optimised, dependencies fully (see [profile.dev]).
"$CARGO" build --locked --offline --workspace --all-targets

step "3/3 NDI runtime"
if $here/ndi-runtime.sh install; then
    ndi=ready
else
    ndi=missing
fi

step "Ready"
cat <<TEXT
  make demo             relay, connector and a camera on this machine; a picture in a minute
  make demo SECONDS=20  the same, ends by itself with figures
  make test             all tests
  make check            format, lints, documentation, licences
None of these needs a network from here on.
TEXT
[ $ndi = ready ] || cat <<TEXT

There is no NDI runtime, so no NDI source can be made and the tests that need one will fail. Everything else works.
  NDI_ACCEPT=1 make setup   accepts NDI's licence and takes a try-out copy, or install one from https://ndi.video
TEXT
