#!/usr/bin/env bash
# A stand-in for the base image python:3.11-slim-bookworm, for a machine that reaches Debian's packages but no image
# registry. Needs root, debootstrap and a Docker engine.
#
#   docker/base.sh maskserve-base && BASE_IMAGE=maskserve-base docker/test.sh
set -euo pipefail
image=${1:?the name that the image is to get}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip bookworm "$root" >&2
ln -s /usr/bin/python3 "$root/usr/local/bin/python"
# As Debian's slim images do.
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* \
    "$root"/usr/share/{doc,info,locale,man}/*
tar -C "$root" -c . | docker import --change 'CMD ["python"]' - "$image"
