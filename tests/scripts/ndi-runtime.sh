#!/bin/sh
# ndi-runtime.sh dir | install
#   dir      prints the folder that holds the NDI runtime and exits 0, or exits 1: there is none. Needs no network.
#   install  the same, but when there is none takes a try-out copy into target/ndi, after consent.
#
# NDI® is a registered trademark of Vizrt NDI AB, https://ndi.video/. The runtime is Vizrt's and under its own
# licence, so it is neither part of this repository nor of anything built from it: everybody gets his own copy.
# The copy comes from the public Python package ndi-python, pinned by its hash; Python itself is not needed to use it.
set -eu
cd "$(dirname "$0")/../.."
copy=$PWD/target/ndi

version=6.3.2.6
# One line per machine: uname -m, wheel platform, sha256 of the wheel.
wheels="x86_64 manylinux_2_28_x86_64 0310b79c53e551a9c4b8e2927fa6d178bd405ca4c1c388da945bfef75bb805fa
aarch64 manylinux_2_28_aarch64 fc7ebf0a52afb8d0e134de5a597bbac0f75ece65dd36f40ee69cd427f12ee09b"

# The same places, in the same order, as the programs themselves look in.
find_runtime() {
    for dir in "${NDI_RUNTIME_DIR_V6-}" "${NDI_RUNTIME_DIR_V5-}" "$copy/NDIlib" \
        /usr/lib /usr/local/lib "/usr/lib/$(uname -m)-linux-gnu" /usr/lib64; do
        for library in libndi.so.6 libndi.so.5; do
            if [ -n "$dir" ] && [ -e "$dir/$library" ]; then
                echo "$dir"
                return
            fi
        done
    done
    return 1
}

consent() {
    cat <<'TEXT'
No NDI® runtime is installed. Firstmile can take a copy to try it out with, from the public Python package ndi-python.

NDI® is a registered trademark of Vizrt NDI AB, https://ndi.video/. The runtime is theirs, free of charge, closed
source, and under the NDI SDK licence: http://ndi.link/ndisdk_license
For a show, install the runtime from https://ndi.video/ instead.
TEXT
    [ "${NDI_ACCEPT-}" = 1 ] && { echo "NDI_ACCEPT=1: accepted."; return; }
    if [ -t 0 ] && [ -t 1 ]; then
        printf 'Accept the licence and fetch the copy? [y/N] '
        read -r answer
        case $answer in [yY]*) return ;; esac
        echo "Not accepted."
    else
        echo "Nobody to ask: set NDI_ACCEPT=1 to accept."
    fi
    return 1
}

fetch() {
    line=$(echo "$wheels" | grep "^$(uname -m) ") || { echo "no pinned copy for $(uname -m)" >&2; return 1; }
    platform=$(echo "$line" | cut -d' ' -f2)
    hash=$(echo "$line" | cut -d' ' -f3)
    rm -rf "$copy"
    mkdir -p "$copy/wheel"
    echo "ndi-python==$version --hash=sha256:$hash" >"$copy/requirements.txt"
    # Explicit tags: the wheel is only unpacked, so it need not match this machine's Python.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
        --platform "$platform" --implementation cp --python-version 3.11 --abi cp311 \
        --dest "$copy/wheel" --requirement "$copy/requirements.txt" || { rm -rf "$copy"; return 1; }
    python3 -m zipfile -e "$copy"/wheel/*.whl "$copy"
    rm -rf "$copy/wheel" "$copy/requirements.txt" "$copy/NDIlib/libndi.so" "$copy"/NDIlib/libndi.so.?.* \
        "$copy"/NDIlib/*.py "$copy"/NDIlib/NDIlib.*
    echo "Licence notices of the runtime: target/ndi/NDIlib/libndi_licenses.txt"
}

case ${1-} in
dir)
    find_runtime
    ;;
install)
    if ! dir=$(find_runtime); then
        consent
        fetch
        dir=$(find_runtime)
    fi
    echo "using $dir"
    ;;
*)
    echo "usage: $0 dir | install" >&2
    exit 2
    ;;
esac
