#!/usr/bin/env bash
# lock.sh UV: writes requirements/run.txt (core, opencv, onnx) and requirements/dev.txt (the same and dev). One resolution
# serves Python 3.10 to 3.13 on x86-64 and aarch64; the public index only, whatever this machine's settings say.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=$1

compile() {
    output=$1
    shift
    env -u UV_INDEX -u UV_INDEX_URL -u UV_EXTRA_INDEX_URL -u UV_FIND_LINKS "$uv" pip compile --quiet --no-config \
        --universal --generate-hashes --python-version 3.10 --default-index https://pypi.org/simple \
        --custom-compile-command "make lock" --output-file "$output" setup.cfg requirements/build.in --extra opencv --extra onnx "$@"
}

compile requirements/dev.txt --extra dev --upgrade
compile requirements/run.txt --constraint requirements/dev.txt --upgrade
