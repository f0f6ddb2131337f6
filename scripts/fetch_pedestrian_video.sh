#!/usr/bin/env bash
# Puts the pedestrian video (vtest.avi, part of Debian's and Ubuntu's package opencv-doc) where the first argument says,
# .cache/vtest.avi by default. Needs apt but neither root nor a change to the system; does nothing where it is there.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${1:-.cache/vtest.avi}
sha256=45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf

[ -s "$target" ] && exit 0

fail() {
    cat >&2 <<TEXT
cannot obtain the pedestrian video: $1
  It lies in the Debian/Ubuntu package opencv-doc. What else to do:
  - on any machine with apt:  apt-get download opencv-doc && dpkg -x opencv-doc_*.deb x && find x -name 'vtest.avi*'
    then copy the file (unpacked) to $target
  - on Ubuntu the package is in 'universe':  sudo add-apt-repository universe && sudo apt-get update
  - or use your own camera, file or folder of images:  make run SOURCE=rtsp://camera/stream
TEXT
    exit 1
}

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || fail "this system has no apt"
mkdir -p "$(dirname "$target")"
target=$(realpath "$target")
work=$(mktemp -d "$(dirname "$target")/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "fetching the pedestrian video (package opencv-doc, 96 MB, once) ..." >&2

log="$work/log"
download() { (cd "$work" && apt-get -qq "$@" download opencv-doc) >>"$log" 2>&1; }
if ! download; then
    # No package lists, or stale ones. A private copy of them needs no root and leaves the system's alone.
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    private=(-o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o "APT::Sandbox::User=")
    apt-get -qq "${private[@]}" update >>"$log" 2>&1 || true
    download "${private[@]}" || { tail -n 5 "$log" >&2; fail "apt-get download opencv-doc failed"; }
fi

member=$(dpkg-deb --fsys-tarfile "$work"/opencv-doc_*.deb | tar -t | grep -E '/vtest\.avi(\.gz|\.xz)?$' | head -n 1) || true
[ -n "$member" ] || fail "the package holds no vtest.avi"
case $member in
    *.gz) unpack=(gzip -dc) ;;
    *.xz) unpack=(xz -dc) ;;
    *) unpack=(cat) ;;
esac
dpkg-deb --fsys-tarfile "$work"/opencv-doc_*.deb | tar -xO "$member" | "${unpack[@]}" >"$work/vtest.avi"
echo "$sha256  $work/vtest.avi" | sha256sum --check --status || fail "the file in the package is another one"
mv "$work/vtest.avi" "$target" # in one step: a parallel caller never sees half a file
