#!/bin/sh
# All checks of Terrace, from a fresh clone: format, lints, tests of the server and of every client, dependencies. This is
# what CI runs (.ci/run).
#
# Requires cargo (Rust 1.90 or newer, with rustfmt and clippy), a C compiler (jemalloc, zstd) and Python 3.11 or newer with
# venv. As root on Debian or Ubuntu, the script installs the missing packages, such as Redis. Packages of Python are
# installed into target/python. No service has to run: the tests start their own servers, each on its own port.
set -eu
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
have() { command -v "$1" >/dev/null 2>&1; }

# Prints the Debian packages of the missing commands that the tests or the build use.
packages_missing() {
    have redis-server || printf ' redis-server'
    have redis-cli || printf ' redis-tools'
    have cc || printf ' gcc libc6-dev'
    have make || printf ' make'
    have curl || printf ' curl'
    # promtool and prometheus check the alert rules and the dashboard.
    have promtool || printf ' prometheus'
    python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || printf ' python3-venv'
}

install_packages() {
    missing=$(packages_missing)
    [ -n "$missing" ] || return 0
    if ! have apt-get || [ "$(id -u)" -ne 0 ]; then
        cat >&2 <<MESSAGE
Packages that the tests require are missing. On Debian or Ubuntu, run as root:
    apt-get install --no-install-recommends$missing
On other systems, install redis-server and redis-cli 7.0 (the tests compare replies with it), curl, a C compiler, make, and
Python 3.11 or newer with venv.
promtool and prometheus are needed only to check the alert rules and the dashboard.
MESSAGE
        exit 1
    fi
    say "installing$missing"
    # The installation must not start services: the tests start their own servers on free ports.
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
        echo "cargo is not installed; install Rust 1.90 or newer from https://rustup.rs" >&2
        exit 1
    fi
    if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        echo "rustfmt or clippy is not installed; run: rustup component add rustfmt clippy" >&2
        exit 1
    fi
}

check_dependencies() {
    if ! cargo deny --version >/dev/null 2>&1; then
        echo "skipped: cargo-deny is not installed; run: cargo install cargo-deny --locked"
        return 0
    fi
    cargo deny --locked check bans licenses sources
    if ! cargo deny --locked fetch db >/dev/null 2>&1; then
        echo "advisories skipped: the advisory database is unreachable"
        return 0
    fi
    cargo deny --locked check --disable-fetch advisories
}

# Tests the Python client with the debug build of the server, which the tests of the server have built.
check_python_client() {
    venv=target/python
    if ! [ -x "$venv/bin/python" ] && ! python3 -m venv "$venv"; then
        echo "cannot create $venv; Python 3.11 or newer with venv is required" >&2
        exit 1
    fi
    if ! "$venv/bin/python" -m pip install -q --disable-pip-version-check -r clients/python/tests/requirements.txt; then
        echo "the packages in clients/python/tests/requirements.txt cannot be installed from PyPI" >&2
        exit 1
    fi
    # Built with the selection of the tests above: a build of this package alone has other features, so that all its
    # dependencies would be built again. The rest of an installation is its metadata and its path.
    cargo build --locked --workspace --lib --bins --tests
    cp "${CARGO_TARGET_DIR:-target}/debug/lib_core.so" clients/python/python/terrace/_core.abi3.so
    packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    printf '%s\n' "$PWD/clients/python/python" >"$packages/terrace.pth"
    (
        cd clients/python
        PATH="$PWD/../../$venv/bin:$PATH"
        maturin pep517 write-dist-info --metadata-directory "$packages" >/dev/null
        ruff format --check .
        ruff check .
        python -m pytest -q
    )
}

install_packages
check_toolchain
say "format"
cargo fmt --all --check
say "lints"
cargo clippy --locked --workspace --all-targets -- -D warnings
# The feature otel changes few files, so only the targets that contain them are checked again.
cargo clippy --locked --features otel --lib --bins --test it -- -D warnings
say "tests"
cargo test --locked --workspace
say "Python client"
check_python_client
say "traces"
cargo test --locked --features otel --test it traces
say "dependencies"
check_dependencies
say "all passed"
