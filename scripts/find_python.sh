#!/bin/sh
# Prints the interpreter to build .venv from. The system's comes first: a service under systemd can always reach it.
for python in /usr/bin/python3 python3.13 python3.12 python3.11 python3.10 python3; do
    if "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then
        command -v "$python"
        exit 0
    fi
done
echo "no Python 3.10 to 3.13 found; install one or say  make PYTHON=/path/to/python3" >&2
exit 1
