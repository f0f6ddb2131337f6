#!/usr/bin/env bash
# Installs the system packages the tests need and this machine lacks (Debian, Ubuntu), by apt, with sudo when not root.
# Leaves no service running that it brought: the tests start their own on free ports.
set -euo pipefail

packages=(
    python3-venv
    mosquitto mosquitto-clients strace iproute2 iptables e2fsprogs systemd-container python3-systemd
    victoria-metrics influxdb
    gir1.2-gst-rtsp-server-1.0 python3-gi
    gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly gstreamer1.0-plugins-bad gstreamer1.0-libav
)
# `test_deps.sh fleet`: what tests/fleet needs beside.
[ "${1:-}" != fleet ] || packages+=(systemd-container debootstrap openssh-client openssl)
missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

command -v apt-get >/dev/null || {
    echo "the tests need these Debian packages, and this system has no apt: ${missing[*]}" >&2
    exit 1
}
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "run as root: apt-get install -y --no-install-recommends ${missing[*]}" >&2; exit 1; }
    as_root=(sudo)
fi
echo "test-deps: installing by apt, as the tests need them: ${missing[*]}"

# Debian starts servers as soon as they are installed. policy-rc.d forbids that; where one exists it is the owner's.
policy=/usr/sbin/policy-rc.d
ours=
log=$(mktemp)
cleanup() {
    rm -f "$log"
    [ -z "$ours" ] || "${as_root[@]}" rm -f "$policy"
}
trap cleanup EXIT
if [ ! -e "$policy" ]; then
    ours=1
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
fi

install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 \
        install -y --no-install-recommends "${missing[@]}" </dev/null >"$log" 2>&1
}
if ! install; then # package lists may be missing or stale
    "${as_root[@]}" apt-get -qq update >"$log" 2>&1 || true
    install || { tail -n 20 "$log" >&2; exit 1; }
fi

# The policy keeps them from starting now; this stops them where the owner's policy did not, and from starting at the next boot.
for server in mosquitto victoria-metrics influxdb; do
    case " ${missing[*]} " in
        *" $server "*)
            if [ -d /run/systemd/system ]; then
                "${as_root[@]}" systemctl -q disable --now "$server.service" || true
            else
                "${as_root[@]}" service "$server" stop >/dev/null 2>&1 || true
            fi
            ;;
    esac
done
