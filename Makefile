# build, test and show certdeploy. `make demo` shows it; `make test` proves it.
.PHONY: build demo test test-rsa lint docs install uninstall deb

PREFIX = /usr/local
# Where an installation for a package is put together; empty for a real one.
DESTDIR =
BUILT = target/release
GENERATED = packaging/generated
INSTALL = install
bin = $(DESTDIR)$(PREFIX)/bin
units = $(DESTDIR)$(PREFIX)/lib/systemd/system
man = $(DESTDIR)$(PREFIX)/share/man
share = $(DESTDIR)$(PREFIX)/share
programs = certdeploy-server certdeploy-client

build:
	cargo build --workspace --locked

demo:
	tests/setup demo
	cargo build --workspace --locked
	cargo run --quiet --locked -p certdeploy-tests --bin demo

test:
	tests/setup
	cargo build --workspace --locked
	cargo test --workspace --locked --no-fail-fast

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

# Manual pages and completions, from the programs' own command lines and lists of settings.
docs:
	@test -x $(BUILT)/generate || { echo "first run: cargo build --release --locked" >&2; exit 1; }
	$(BUILT)/generate $(GENERATED)

# What `cargo build --release` made: nothing is built here, so that it can run as root. DESTDIR is for packages.
install: docs
	$(INSTALL) -d $(bin) $(units) $(man)/man1 $(man)/man5 $(man)/man8 $(DESTDIR)$(PREFIX)/lib/sysusers.d \
		$(DESTDIR)$(PREFIX)/lib/tmpfiles.d $(share)/bash-completion/completions $(share)/zsh/site-functions \
		$(share)/fish/vendor_completions.d $(share)/doc/certdeploy
	for program in $(programs); do \
		$(INSTALL) -m 755 $(BUILT)/$$program $(bin)/ && \
		$(INSTALL) -m 644 $(GENERATED)/completions/$$program.bash $(share)/bash-completion/completions/$$program && \
		$(INSTALL) -m 644 $(GENERATED)/completions/_$$program $(share)/zsh/site-functions/ && \
		$(INSTALL) -m 644 $(GENERATED)/completions/$$program.fish $(share)/fish/vendor_completions.d/ && \
		$(INSTALL) -m 644 systemd/$$program.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/$$program.conf || exit 1; \
	done
	for unit in systemd/*.service systemd/*.timer systemd/*.socket; do \
		sed 's#/usr/bin/certdeploy-#$(PREFIX)/bin/certdeploy-#' $$unit >$(units)/$${unit##*/} && \
		chmod 644 $(units)/$${unit##*/} || exit 1; \
	done
	for section in 1 5 8; do $(INSTALL) -m 644 $(GENERATED)/man/*.$$section $(man)/man$$section/ || exit 1; done
	$(INSTALL) -m 644 systemd/certdeploy.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/certdeploy.conf
	cp -R packaging/examples packaging/cron packaging/logrotate packaging/polkit packaging/sshd_config.d $(share)/doc/certdeploy/

# Takes away exactly what `make install` brought.
uninstall:
	for program in $(programs); do \
		rm -f $(bin)/$$program $(share)/bash-completion/completions/$$program $(share)/zsh/site-functions/_$$program \
			$(share)/fish/vendor_completions.d/$$program.fish $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/$$program.conf \
			$(man)/man[158]/$$program.* $(man)/man1/$$program-*.1; \
	done
	cd systemd && for unit in *.service *.timer *.socket; do rm -f $(units)/$$unit; done
	rm -f $(DESTDIR)$(PREFIX)/lib/sysusers.d/certdeploy.conf
	rm -rf $(share)/doc/certdeploy

# Packages in target/debian. Needs cargo-deb (`cargo install cargo-deb --locked`) and dpkg-dev.
deb:
	cargo build --workspace --release --locked
	$(MAKE) docs
	for program in $(programs); do cargo deb --no-build --locked -p $$program || exit 1; done
