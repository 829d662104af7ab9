#!/bin/sh
# Fuzzes what strangers can send: each target for so many seconds, from its corpus, and says what was done.
#
#   fuzz.sh SECONDS [TARGET…]
#
# Needs cargo-fuzz (installed below target/ if it is missing: that needs a network, once). Works with the pinned
# toolchain: without a sanitizer, which safe Rust does not need; overflows and assertions are checked.
# An input that takes two minutes counts as a hang: less may be the machine.
# What it finds is in tests/fuzz/artifacts; `tests/scripts/fuzz.sh 0 TARGET` only replays the corpus.
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:?"fuzz.sh SECONDS [TARGET...]"}
shift
case $seconds in '' | *[!0-9]*) echo "fuzz: SECONDS is '$seconds'; give a number, as in make fuzz SECONDS=60" >&2; exit 2 ;; esac
CARGO=${CARGO:-cargo}
tools=$PWD/target/tools
if ! "$CARGO" fuzz --version >/dev/null 2>&1; then
	if [ ! -x "$tools/bin/cargo-fuzz" ]; then
		echo "fuzz: installing cargo-fuzz into target/tools (needs a network, once)" >&2
		"$CARGO" install --quiet --locked --root "$tools" cargo-fuzz
	fi
	PATH=$tools/bin:$PATH
fi
targets=${*:-handshake chunk amf tags session conversation unit control frame}
fuzz="--fuzz-dir tests/fuzz --sanitizer none --target-dir target/fuzz"
mkdir -p target/fuzz/logs

# All at once: a broken target shows before the first minute is spent.
# shellcheck disable=SC2086 # options are words
"$CARGO" fuzz build $fuzz

"$CARGO" run --quiet --release --manifest-path tests/fuzz/Cargo.toml --target-dir target/fuzz --example seeds

limit="-max_total_time=$seconds"
[ "$seconds" -gt 0 ] || limit=-runs=0
failed=0
for target in $targets; do
	log=target/fuzz/logs/$target.log
	# libFuzzer wants both folders; only some targets have seeds in the repository.
	mkdir -p "tests/fuzz/corpus/$target" "target/fuzz/corpus/$target"
	# New inputs go below target/; the repository's corpus is read only.
	# shellcheck disable=SC2086
	if "$CARGO" fuzz run $fuzz "$target" "target/fuzz/corpus/$target" "tests/fuzz/corpus/$target" -- \
		"$limit" -timeout=120 -rss_limit_mb=1024 -print_final_stats=1 -verbosity=1 >"$log" 2>&1; then
		result=ok
	else
		result="FAILED, see $log"
		failed=1
	fi
	runs=$(awk '/^stat::number_of_executed_units/ { print $2 }' "$log")
	peak=$(awk '/^stat::peak_rss_mb/ { print $2 }' "$log")
	last=$(grep -aoE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$log" | tail -n 1)
	echo "$target: $result: ${runs:-0} executions, ${last:-no coverage}, peak ${peak:-?} MB"
done
"$CARGO" run --quiet --release --manifest-path tests/fuzz/Cargo.toml --target-dir target/fuzz --example reached
exit $failed
