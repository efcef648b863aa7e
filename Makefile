# make demo   build and run the whole journey on this machine; ARGS=--once ends after one round trip
# make test   the whole test suite
# make nitro  the engine's image on an emulated Nitro machine, which is built first: some minutes, once
# make lint   formatting and lints, as CI runs them
# make bench  measurements
# Each installs what it lacks where it may (as root, with apt), or says in one line what to install.

CARGO ?= cargo
ARGS ?=
READER := tests/conformance/reader
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Engines that prove themselves under a root of the tests' own; what is installed is built without them.
TESTED := --features relay/test-root,e3-enclave/test-module
VENV := $(TARGET)/reader-venv

.PHONY: demo test nitro reader moto clients lint bench deps

demo:
	@.ci/deps build
	$(CARGO) build --locked --workspace --bins $(TESTED)
	@$(TARGET)/debug/demo $(ARGS)

test:
	@.ci/deps build test reader
	$(CARGO) build --locked --workspace --bins $(TESTED)
	$(CARGO) test --locked --workspace $(TESTED)
	@$(MAKE) --no-print-directory reader moto clients

nitro:
	@tests/nitro/run $(ARGS)

# The second implementation of the token format, written from SPEC.md alone, checks the frozen vectors, and seals to a public key of the engine.
reader:
	@.ci/deps reader
	@[ -x $(TARGET)/debug/e3 ] || $(CARGO) build --locked --workspace --bins $(TESTED)
	@if [ -d $(READER) ]; then E3_ENGINE=$(TARGET)/debug/e3 .ci/reader $(READER) $(VENV); fi

# An AWS emulator from PyPI understands what the engine asks of KMS, and is refused for what it answers.
moto:
	@.ci/deps build reader
	CARGO=$(CARGO) .ci/moto $(TARGET)/moto-venv $(TESTED),e3-tests/moto

# Python's, Node's and Go's clients and curl go through the proxy, unmodified.
clients:
	@.ci/deps build test reader clients
	CARGO=$(CARGO) .ci/clients $(TARGET)/clients $(TESTED),e3-tests/clients

lint:
	@.ci/deps build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets $(TESTED),e3-tests/nitro,e3-tests/moto,e3-tests/clients,e3-nitro-signer/sign -- -D warnings

bench:
	@.ci/deps build bench
	$(CARGO) bench --locked -p e3-benches
	$(CARGO) build --locked --release --workspace --bins
	$(CARGO) run --locked --release -p e3-benches --bin journey -- $(ARGS)
	$(CARGO) run --locked --release -p e3-benches --bin edge -- $(ARGS)
	$(CARGO) run --locked --release -p e3-benches --bin api -- $(ARGS)

deps:
	@.ci/deps build reader
