#!/usr/bin/env bash
# lock.sh UV: writes requirements/run.txt (core, opencv, onnx), dev.txt (the same and dev) and extra-<name>.txt (what each
# other extra adds). One resolution serves Python 3.10 to 3.13 on x86-64 and aarch64; from the public index only, whatever
# this machine's settings say.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=$1

compile() {
    output=$1
    shift
    env -u UV_INDEX -u UV_INDEX_URL -u UV_EXTRA_INDEX_URL -u UV_FIND_LINKS "$uv" pip compile --quiet --upgrade \
        --config-file requirements/uv.toml --universal --generate-hashes --python-version 3.10 \
        --default-index https://pypi.org/simple --custom-compile-command "make lock" --output-file "$output" \
        setup.cfg requirements/build.in "$@"
}

compile requirements/dev.txt --extra opencv --extra onnx --extra dev --constraint requirements/constraints.in
compile requirements/run.txt --extra opencv --extra onnx --constraint requirements/dev.txt
mapfile -t run < <(sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package=\1/p' requirements/run.txt | sort -u)
for extra in coral influxdb openvino rtx systemd tensorrt; do
    compile "requirements/extra-$extra.txt" --extra "$extra" --constraint requirements/dev.txt --constraint requirements/constraints.in "${run[@]}"
done
# For bundles: pip itself, as a box need not have it, and what fits JetPack's own packages.
for name in bundle jetpack; do
    env -u UV_INDEX -u UV_INDEX_URL -u UV_EXTRA_INDEX_URL -u UV_FIND_LINKS "$uv" pip compile --quiet --upgrade --config-file requirements/uv.toml \
        --universal --generate-hashes --python-version 3.10 --default-index https://pypi.org/simple --custom-compile-command "make lock" \
        --output-file "requirements/$name.txt" "requirements/$name.in"
done
