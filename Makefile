# build, test and show certdeploy. `make demo` shows it; `make test` proves it.
.PHONY: build demo test lint

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

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
