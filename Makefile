# build, test and show certdeploy. `make demo` shows it; `make test` proves it.
.PHONY: build demo test test-rsa lint

build:
	cargo build --workspace --locked

demo:
	tests/setup demo
	cargo build --workspace --locked
	cargo run --quiet --locked -p certdeploy-tests --bin demo

test:
	tests/setup
	cargo build --workspace --locked
	cargo test --workspace --locked

# RSA keys are a cargo feature that is off: one test in a build that has it, and then the usual programs again.
test-rsa:
	tests/setup
	cargo build --workspace --locked --features certdeploy-server/rsa
	cargo test --workspace --locked --features certdeploy-server/rsa --test rsa
	cargo build --workspace --locked

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
