#!/bin/sh
# Checks the TensorRT backend against NVIDIA's interface, on a machine that has no TensorRT: pyright with tensorrt-stubs.
# The stubs take the name of the package and must never be installed where the agent runs: they get a folder of their own.
set -eu
cd "$(dirname "$0")/.."
stubs=10.13.0.35.1 pyright=1.1.414
uv=${UV:-.venv/bin/uv}
home=.cache/tensorrt-types
if [ "$(cat "$home/versions" 2>/dev/null)" != "$stubs $pyright" ]; then
    rm -rf "$home"
    "$uv" venv --quiet "$home/venv"
    "$uv" pip install --quiet --python "$home/venv" "pyright[nodejs]==$pyright"
    "$uv" pip install --quiet --no-deps --target "$home/stubs" "tensorrt-stubs==$stubs"
    echo "$stubs $pyright" >"$home/versions"
fi
cat >"$home/pyrightconfig.json" <<JSON
{
  "include": ["../../edge_agent/detect/backends/tensorrt"],
  "exclude": ["../../edge_agent/detect/backends/tensorrt/memory*.py"],
  "extraPaths": ["stubs", "../.."],
  "venvPath": "../..", "venv": ".venv",
  "pythonVersion": "3.10",
  "reportMissingModuleSource": false
}
JSON
exec "$home/venv/bin/pyright" --project "$home/pyrightconfig.json" "$@"
