#!/usr/bin/env bash
# Puts ONNX Runtime's C and C++ headers (and nothing else) into a folder, out of Debian's package libonnxruntime-dev.
#
#   fetch-headers.sh FOLDER        then: cmake -DONNXRUNTIME_INCLUDE_DIR=FOLDER
#
# Debian has the package since release 13 (ONNX Runtime 1.21). An older Debian takes it from there, through apt, its
# signature checked as ever; the system's own packages and sources stay as they are.
set -euo pipefail

[ $# -eq 1 ] || { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2; }
release=trixie
archive=$(apt-get indextargets --format '$(REPO_URI)' | sed -n 's#/debian/*$#/debian#p' | head -n 1)
[ -n "$archive" ] || { echo "fetch-headers: apt has no Debian archive: take the headers from ONNX Runtime's release" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists/partial,cache/archives/partial,package}
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $release main" >"$work/sources.list"
apt() {
    apt-get -qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o Acquire::Languages=none \
        -o APT::Sandbox::User="$(id -un)" "$@"
}
apt update
(cd "$work/package" && apt download libonnxruntime-dev && dpkg -x ./*.deb .)
mkdir -p "$1"
cp "$work"/package/usr/include/onnxruntime/*.h "$1"
echo "ONNX Runtime's headers $(basename "$work"/package/*.deb | cut -d_ -f2) are in $1"
