# make demo   installs what is missing, builds, reproduces the leak
# make test   installs what is missing, every check and test
# make test-rdma  tests that need RDMA devices, on those of this machine or of a virtual one
# make bench  criterion benchmarks of transport, engine, router, load generator
# make build  the release binary with every transport: target/release/pdlab

FEATURES := ucx,verbs
DEMO_UCX := 1.19.0
TEST_UCX := 1.16.0 1.19.0 1.20.1 1.22.0
PDLAB    := target/release/pdlab

# What is built once needs no notes for the next time.
ifdef CI
export CARGO_INCREMENTAL := 0
endif

.PHONY: demo build test test-rdma check bench clean

demo: build
	$(PDLAB) ucx fetch $(DEMO_UCX)
	$(PDLAB) repro

build:
	scripts/deps build
	cargo build --release --locked --features $(FEATURES)

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked --features $(FEATURES) -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --features $(FEATURES)

# The tests run UCX as it comes from its builds: UCX_* variables of the caller would change what
# they show. The conformance suite runs on every build, everything else once.
test: unexport_ucx := $(foreach name,$(filter UCX_%,$(.VARIABLES)),-u $(name))
test:
	scripts/deps rdma
	$(MAKE) check
	cargo build --locked --features $(FEATURES)
	set -e; for version in $(TEST_UCX); do \
		path=$$(target/debug/pdlab ucx fetch $$version); \
		env $(unexport_ucx) PDLAB_TEST_UCX=$$path \
			cargo test --workspace --locked --features $(FEATURES) --test conformance; \
	done
	env $(unexport_ucx) PDLAB_TEST_UCX=$$(target/debug/pdlab ucx path $(DEMO_UCX)) PDLAB_UCX_COMPLETION=poll \
		cargo test --workspace --locked --features $(FEATURES) --test conformance ucx
	cargo test --workspace --locked --features $(FEATURES) --doc
	scripts/rdma-tests
	env $(unexport_ucx) PDLAB_TEST_UCX=$$(target/debug/pdlab ucx path $(DEMO_UCX)) \
		cargo test --workspace --locked --features $(FEATURES) --lib --bins --tests

# A part of `make test`: on PDLAB_RDMA_DEVICE if it is set, else in machines of its own that have two.
test-rdma:
	scripts/deps rdma
	scripts/rdma-tests

bench: build
	PDLAB_TEST_UCX=$$(target/release/pdlab ucx fetch $(DEMO_UCX)) \
		cargo bench --workspace --locked --features $(FEATURES) --benches

clean:
	cargo clean
