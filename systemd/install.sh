#!/usr/bin/env bash
# install.sh [--root FOLDER] [DROP-IN...]: puts the unit and what belongs to it in its places, as root. Again and again with
# the same result; restarts nothing. With --root into the tree of an image instead, where nothing is started or made.
# DROP-IN: jetson, no-runtime-code, hardware-watchdog, journald; restart-steps comes by itself where systemd knows it.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
root=
if [ "${1:-}" = --root ]; then
    root=${2:?--root needs a folder}
    shift 2
fi

systemd=$(systemctl --version 2>/dev/null | awk 'NR == 1 { print $2 }')
drop_ins=("$@")
[ "${systemd:-0}" -lt 254 ] || drop_ins+=(restart-steps)

put() { install -D -m 644 "$here/$1" "$root/$2"; }

for unit in edge-agent.service edge-agent-update.service edge-agent-update.timer edge-agent-update-resume.service; do
    put "$unit" "etc/systemd/system/$unit"
done
put edge-agent.sysusers.conf etc/sysusers.d/edge-agent.conf
put edge-agent.tmpfiles.conf etc/tmpfiles.d/edge-agent.conf
put 70-edge-agent.rules etc/udev/rules.d/70-edge-agent.rules
for name in "${drop_ins[@]}"; do
    case $name in
        journald) put drop-ins/journald.conf etc/systemd/journald.conf.d/edge-agent.conf ;;
        hardware-watchdog) put drop-ins/hardware-watchdog.conf etc/systemd/system.conf.d/edge-agent.conf ;;
        jetson | no-runtime-code | restart-steps)
            put "drop-ins/$name.conf" "etc/systemd/system/edge-agent.service.d/50-$name.conf" ;;
        *) echo "$name: there is no such drop-in; there are jetson, no-runtime-code, hardware-watchdog, journald" >&2; exit 2 ;;
    esac
done

if [ -n "$root" ]; then exit 0; fi
systemd-sysusers edge-agent.conf
systemd-tmpfiles --create edge-agent.conf
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    ! command -v udevadm >/dev/null || udevadm control --reload || true
fi
