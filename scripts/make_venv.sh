#!/usr/bin/env bash
# make_venv.sh PYTHON run|dev|extra-NAME: creates .venv and installs exactly what requirements/<that>.txt locks, hashes
# checked, then the package itself (editable). Offline: PIP_NO_INDEX=1 PIP_FIND_LINKS= a folder of wheels.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
set_=$2

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    apt_line="apt-get install -y python3-venv"
    if [ "$(id -u)" -eq 0 ] && [ "$python" = /usr/bin/python3 ] && command -v apt-get >/dev/null; then
        echo "installing the missing venv module: $apt_line"
        install() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install -y python3-venv </dev/null 2>&1; }
        log=$(install) || { apt-get -qq update && log=$(install); } || { echo "$log" >&2; exit 1; }
    else
        echo "$python has no venv module. Install it and try again:  sudo $apt_line" >&2
        exit 1
    fi
fi

if ! .venv/bin/python -c '' 2>/dev/null; then
    echo "creating .venv from $("$python" --version) ($python)"
    rm -rf .venv
    "$python" -m venv .venv
fi
echo "installing requirements/$set_.txt into .venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
.venv/bin/python -m pip install -qq --no-deps --require-hashes -r "requirements/$set_.txt"
.venv/bin/python -m pip install -qq --no-deps --no-build-isolation -e .
touch .venv/.run
[ "$set_" = run ] || touch ".venv/.$set_"
