#!/bin/sh
# All checks of Terrace, from a fresh clone: format, lints, tests, dependencies. This is what CI runs (.ci/run).
#
# Needs cargo (Rust 1.90 or newer, with rustfmt and clippy) and a C compiler (jemalloc, zstd). Redis for the tests is
# installed here when we may; nothing has to run beforehand, and every server that the tests start uses a port of its own.
set -eu
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
have() { command -v "$1" >/dev/null 2>&1; }

# Debian's package of each command that the tests or the build use.
packages_missing() {
    have redis-server || printf ' redis-server'
    have redis-cli || printf ' redis-tools'
    have cc || printf ' gcc libc6-dev'
    have make || printf ' make'
    have curl || printf ' curl'
    # promtool and prometheus, for the rules and the dashboard.
    have promtool || printf ' prometheus'
}

install_packages() {
    missing=$(packages_missing)
    [ -n "$missing" ] || return 0
    if ! have apt-get || [ "$(id -u)" -ne 0 ]; then
        cat >&2 <<MESSAGE
The tests need what is missing here. On Debian or Ubuntu, as root:
    apt-get install --no-install-recommends$missing
elsewhere: redis-server and redis-cli 7.0 (replies are compared with it), curl, a C compiler and make, on PATH; promtool and
prometheus, if the rules and the dashboard are to be checked as well.
MESSAGE
        exit 1
    fi
    say "installing$missing"
    # No service may start by the installation: the tests start their own servers on free ports.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of package names
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
}

check_toolchain() {
    if ! have cargo; then
        echo "cargo is missing: install Rust 1.90 or newer from https://rustup.rs" >&2
        exit 1
    fi
    if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        echo "rustfmt or clippy is missing: rustup component add rustfmt clippy" >&2
        exit 1
    fi
}

check_dependencies() {
    if ! cargo deny --version >/dev/null 2>&1; then
        echo "not checked: cargo-deny is not installed (cargo install cargo-deny --locked)"
        return 0
    fi
    cargo deny --locked check bans licenses sources
    if ! cargo deny --locked fetch db >/dev/null 2>&1; then
        echo "advisories not checked: their database is out of reach"
        return 0
    fi
    cargo deny --locked check --disable-fetch advisories
}

install_packages
check_toolchain
say "format"
cargo fmt --check
say "lints"
cargo clippy --locked --all-targets -- -D warnings
# The feature changes a few files: only what holds them is looked at again.
cargo clippy --locked --features otel --lib --bins --test it -- -D warnings
say "tests"
cargo test --locked
say "traces"
cargo test --locked --features otel --test it traces
say "dependencies"
check_dependencies
say "all passed"
