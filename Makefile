# make demo   installs what is missing, builds, reproduces the leak
# make test   installs what is missing, every check and test
# make bench  criterion benchmarks of transport, engine, router, load generator
# make build  the release binary with every transport: target/release/pdlab

FEATURES := ucx
UCX_DEMO := 1.19.0
UCX_TEST := 1.16.0 1.19.0 1.22.0
PDLAB    := target/release/pdlab

.PHONY: demo build test check bench clean

demo: build
	$(PDLAB) ucx fetch $(UCX_DEMO)
	$(PDLAB) repro

build:
	scripts/deps build
	cargo build --release --locked --features $(FEATURES)

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked --features $(FEATURES) -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked --features $(FEATURES)

# The tests run UCX as it comes from its builds: variables of the caller would change what they show.
test:
	scripts/deps test
	$(MAKE) check
	cargo build --locked --features $(FEATURES)
	for version in $(UCX_TEST); do target/debug/pdlab ucx fetch $$version || exit 1; done
	for name in $$(env | sed -n 's/^\(UCX_[A-Z0-9_]*\)=.*/\1/p'); do unset $$name; done; \
	PDLAB_TEST_UCX=$(UCX_DEMO) cargo test --workspace --locked --features $(FEATURES)

bench:
	scripts/deps build
	cargo bench --locked --features $(FEATURES) -p pdlab-transport -p pdlab-engine -p pdlab-router -p pdlab-bench

clean:
	cargo clean
