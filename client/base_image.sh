#!/bin/sh
# Build a Debian image with Python from Debian's packages, for machines without access to an image registry.
# As root, with debootstrap and docker:   client/base_image.sh [NAME]
# Then, in the project's folder (PIP_CERT only behind a proxy that intercepts TLS):
#   docker build --network host --build-arg BASE=NAME -f client/Dockerfile -t fedn-partial . \
#     --build-arg PIP_CERT=/etc/ssl/certs/ca-certificates.crt
set -eu
name=${1:-fedn-partial-base}
for program in debootstrap docker; do
    command -v $program > /dev/null || { echo "$program is missing: apt install debootstrap docker.io" >&2; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "run this as root: debootstrap creates a root file system" >&2; exit 1; }
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,tini,ca-certificates bookworm "$root" > "$root.log" ||
    { tail -n 5 "$root.log" >&2; exit 1; }
rm -f "$root.log"
# This machine's certificate authorities: behind a proxy that intercepts TLS, pip needs them in the image.
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
tar -C "$root" -c . | docker import - "$name" > /dev/null
echo "$name"
