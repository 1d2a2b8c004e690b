#!/bin/sh
# Builds a Debian 12 root file-system image from this machine's own package sources: a raw, sparse 2 GiB ext4 file
# with about 700 MiB of kernel, modules, systemd and sshd in it. Takes about two minutes, once.
#   acceptance/image.sh DEST
set -eu
dest=$1
here=$(dirname "$0")
[ -f "$dest" ] && exit 0
"$here/packages.sh" mmdebstrap e2fsprogs
as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
work=$(mktemp -d)
trap '$as_root rm -rf "$work"' EXIT
sources=
for f in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
	[ -s "$f" ] && sources="$sources $f"
done
echo "building a Debian 12 image in $dest (once, about two minutes)" >&2
# shellcheck disable=SC2086 # a list of words on purpose
$as_root mmdebstrap --quiet --mode=root --variant=minbase --include=linux-image-amd64,systemd-sysv,ifupdown,openssh-server \
	bookworm "$work/root" $sources >/dev/null
mkdir -p "$(dirname "$dest")"
$as_root /sbin/mke2fs -q -t ext4 -L debian-12 -d "$work/root" "$dest.part" 2G
$as_root chown "$(id -u):$(id -g)" "$dest.part"
mv "$dest.part" "$dest"
