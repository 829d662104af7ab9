#!/bin/bash
# test.sh [ARGUMENT...]: runs the workspace's tests, which are built already, and ends with one line that says it all.
# cargo-nextest where it is installed (parallel, end-to-end tests one at a time), else cargo test: the same tests.
# ARGUMENTs go to either. Environment: CARGO names another cargo.
set -euo pipefail
# A failed test says what it saw; the stack of the test harness adds nothing.
export RUST_LIB_BACKTRACE=0
cd "$(dirname "$0")/../.."
cargo=${CARGO:-cargo}
common=(--locked --offline --workspace)

# The end-to-end tests pace real media: where it is allowed, other work on this machine comes second.
first=()
nice -n -10 true 2>/dev/null && [ "$(nice -n -10 nice 2>/dev/null)" = -10 ] && first=(nice -n -10)

if "$cargo" nextest --version >/dev/null 2>&1; then
    # nextest knows no documentation tests.
    "$cargo" test "${common[@]}" --doc --quiet >/dev/null || "$cargo" test "${common[@]}" --doc
    exec "${first[@]}" "$cargo" nextest run "${common[@]}" "$@"
fi

# One summary instead of one per test program; the exit code stays cargo's. From a file: Debian's awk (mawk) would
# hold each line back until it has read 4 KiB more, minutes late.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
"${first[@]}" "$cargo" test "${common[@]}" --no-fail-fast "$@" 2>&1 | tee "$log" || status=$?
awk '
    / \.\.\. ok$/ { ok++ }
    / \.\.\. FAILED$/ { wrong++ }
    /^test result:/ { passed += $4; failed += $6; ok = wrong = 0 }
    # A test program that broke has no result: what it had done so far, and the test that broke it.
    /process didn.t exit successfully: .*signal/ { passed += ok; failed += wrong + 1; ok = wrong = 0 }
    END { printf "\nSummary: %d tests run: %d passed, %d failed\n", passed + failed, passed, failed }' "$log"
exit "$status"
