# Everything a person or a CI runs has a target here. `make` alone lists them.
# Only `setup` needs a network; the rest works offline, the demo and the tests inside a private network namespace.

CARGO ?= cargo
OFFLINE := --locked --offline
NETNS := tests/netns.sh

# Both programs and the tests look for NDI's library there; empty where no runtime is.
NDI_DIR = $(shell tests/scripts/ndi-runtime.sh dir 2>/dev/null)
WITH_NDI = $(if $(NDI_DIR),NDI_RUNTIME_DIR_V6='$(NDI_DIR)')

# A test that skips itself for want of NDI or FFmpeg fails under `make test`.
REQUIRED := FIRSTMILE_REQUIRE_NDI=1 FIRSTMILE_REQUIRE_FFMPEG=1 FIRSTMILE_PREBUILT=1

# The slow tests: one target for each file tests/tests/slow_NAME.rs, of 15 minutes at most, that also runs alone.
SLOW := $(patsubst tests/tests/slow_%.rs,test-slow-%,$(sort $(wildcard tests/tests/slow_*.rs)))

.PHONY: help setup build release demo test test-slow $(SLOW) check lab bench bench-tunnel bench-decoder bench-slates fuzz test-encoders

help:
	@echo 'make setup        packages, build, NDI runtime: all that needs a network (NDI_ACCEPT=1 accepts its licence)'
	@echo 'make demo         relay, connector and a camera on this machine (SECONDS=20: ends by itself, with figures)'
	@echo 'make test         all tests but the slow ones'
	@echo 'make test-slow    the slow ones; each alone: $(SLOW)'
	@echo 'make test-encoders  every encoder and its codecs, byte by byte; RTMPS, OBS, nginx; installs what is missing'
	@echo 'make check        format, lints, documentation, dependencies'
	@echo 'make fuzz         what strangers can send, each target for SECONDS=60; TARGETS="chunk session" for some of them'
	@echo 'make lab          tunnels on bad links, beside TCP BBR and SRT: an hour, as root; QUICK=1: ten minutes;'
	@echo '                  ROWS=loss,dip for some rows, REPEAT=1, JSON=target/lab.json for all figures'
	@echo 'make bench        all measurements; bench-tunnel: CPU and delay of the tunnel at 1, 4 and 50 feeds;'
	@echo '                  bench-decoder: a decoder in a process of its own beside one in a thread;'
	@echo '                  bench-slates: CPU of sources that have no picture'
	@echo 'make release      the optimised programs, in target/release'

setup:
	@CARGO='$(CARGO)' tests/scripts/setup.sh

# As `setup` builds: with the features of the tests. The programs alone would compile tokio and all above it anew.
build:
	@$(CARGO) build $(OFFLINE) --quiet --workspace --all-targets

release:
	$(CARGO) build $(OFFLINE) --release -p firstmile-relay -p firstmile-connector

demo: setup
	@$(WITH_NDI) $(NETNS) target/debug/demo $(if $(SECONDS),--seconds $(SECONDS))

test: build
	$(CARGO) test $(OFFLINE) --workspace --no-run
	$(REQUIRED) $(WITH_NDI) CARGO='$(CARGO)' $(NETNS) tests/scripts/test.sh

test-slow: $(SLOW)
$(SLOW): test-slow-%: build
	$(CARGO) test $(OFFLINE) --workspace --no-run --features slow
	$(REQUIRED) $(WITH_NDI) CARGO='$(CARGO)' $(NETNS) tests/scripts/test.sh --features slow --test 'slow_$*'

test-encoders: build
	tests/scripts/encoders-debian.sh
	tests/scripts/encoders.sh
	$(CARGO) test $(OFFLINE) --workspace --no-run --features encoders
	$(REQUIRED) CARGO='$(CARGO)' $(NETNS) tests/scripts/test.sh --features encoders --test 'encoders*'

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(OFFLINE) --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc $(OFFLINE) --workspace --no-deps
	CARGO='$(CARGO)' tests/scripts/check-dependencies.sh

fuzz:
	@CARGO='$(CARGO)' tests/scripts/fuzz.sh $(or $(SECONDS),60) $(TARGETS)

# Links are what is measured, not processors: the build of the tests serves.
lab: build
	@$(WITH_NDI) FIRSTMILE_PREBUILT=1 $(NETNS) target/debug/lab $(if $(QUICK),--quick) $(if $(ROWS),--rows '$(ROWS)') \
	    $(if $(REPEAT),--repeat '$(REPEAT)') $(if $(JSON),--json '$(JSON)')

bench: bench-tunnel bench-decoder bench-slates

bench-tunnel:
	$(CARGO) build $(OFFLINE) --release --workspace --bins
	$(NETNS) target/release/bench-tunnel

bench-decoder:
	$(CARGO) build $(OFFLINE) --release --workspace --bins
	target/release/bench-decoder

bench-slates:
	$(CARGO) build $(OFFLINE) --release --workspace --bins
	$(WITH_NDI) $(NETNS) target/release/bench-slates
