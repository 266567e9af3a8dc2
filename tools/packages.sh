# Sourced by ./check and ./demo: what a Debian machine lacks of what they need, and how it gets there.
# shellcheck shell=bash

# has_libclang: whether there is one that the generator of llama.cpp's bindings will find.
has_libclang() {
    local found
    [ -z "${LIBCLANG_PATH:-}" ] || return 0
    # Not libclang-cpp, which has another interface.
    for found in /usr/lib/llvm-*/lib/libclang{,-[0-9]*}.so* /usr/lib{,64}/{,*-linux-*/}libclang{,-[0-9]*}.so*; do
        [ -e "$found" ] && return 0
    done
    return 1
}

# missing_for_engine: what compiling the built-in engine needs and is missing here.
missing_for_engine() {
    command -v c++ >/dev/null || echo build-essential
    command -v make >/dev/null || echo build-essential
    command -v cmake >/dev/null || echo cmake
    has_libclang || echo libclang-dev
}

# can_install: whether packages can be installed by whoever this is.
can_install() { [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; }

# install_packages PACKAGE...: says how much it is, then installs them. Asks nobody: it was asked to by being run.
install_packages() {
    echo "apt-get install $*"
    apt-get update -qq || return 1
    # What would be fetched, in apt-get's own words.
    { apt-get install --assume-no --no-install-recommends "$@" 2>/dev/null || true; } |
        sed -n 's/^\(Need to get .*\|After this operation, .*\)$/   \1/p'
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
