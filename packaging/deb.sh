#!/bin/sh
# Makes a Debian package of the programs in bin/: programs, unit, configuration, libvirt hook.
#   packaging/deb.sh VERSION [DIRECTORY]
set -eu
cd "$(dirname "$0")/.."
version=$1
out=${2:-build}
arch=$(dpkg --print-architecture)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
install -D -m 755 -t "$root/usr/bin" bin/virtswarm bin/virtswarmd
install -D -m 644 -t "$root/etc/virtswarm" packaging/virtswarm.yaml
install -D -m 644 -t "$root/lib/systemd/system" packaging/systemd/virtswarmd.service
install -D -m 755 -t "$root/etc/libvirt/hooks/qemu.d" packaging/libvirt/virtswarm
install -D -m 644 -t "$root/usr/share/doc/virtswarm" README.md CHANGELOG.md docs/*.md
install -D -m 644 LICENSE "$root/usr/share/doc/virtswarm/copyright"
mkdir -m 755 "$root/DEBIAN"
find "$root/etc" -type f -printf '/etc/%P\n' >"$root/DEBIAN/conffiles"
cat >"$root/DEBIAN/control" <<EOF
Package: virtswarm
Version: $version
Architecture: $arch
Maintainer: virtswarm maintainers <maintainers@virtswarm.example>
Section: admin
Priority: optional
Depends: libc6
Suggests: libvirt-daemon-system
Description: hypervisor hosts that act as one swarm
 A small daemon on each host: together they keep a catalogue of files and of
 libvirt domains, shard each file over the hosts, and move files host to host.
 A libvirt hook makes files present before a domain starts.
EOF
# The daemon starts when an operator says whether it is the first of a cluster or joins one.
cat >"$root/DEBIAN/postinst" <<'EOF'
#!/bin/sh
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
[ "$1" != configure ] || [ -z "$2" ] || [ ! -d /run/systemd/system ] || systemctl try-restart virtswarmd
EOF
cat >"$root/DEBIAN/prerm" <<'EOF'
#!/bin/sh
set -e
[ "$1" != remove ] || [ ! -d /run/systemd/system ] || systemctl disable --now virtswarmd
EOF
chmod 755 "$root/DEBIAN/postinst" "$root/DEBIAN/prerm"
mkdir -p "$out"
dpkg-deb --build --root-owner-group "$root" "$out/virtswarm_${version}_$arch.deb"
