#!/bin/sh
# Makes the Debian packages: virtswarm for hosts, and virtswarm-agent, for guests of each architecture.
#   packaging/deb.sh VERSION [DIRECTORY]
set -eu
cd "$(dirname "$0")/.."
version=$1
out=${2:-build}
export CGO_ENABLED=1 GOFLAGS="${GOFLAGS--tags=libvirt_dlopen}" # libvirt is loaded where it is installed
root=
trap 'rm -rf "$root"' EXIT

# begin makes $root, the tree of a package.
begin() {
	root=$(mktemp -d)
	chmod 755 "$root"
	mkdir -m 755 "$root/DEBIAN"
}

# control PACKAGE ARCHITECTURE writes what the package is; the other fields come from standard input.
control() {
	cat >"$root/DEBIAN/control" <<END
Package: $1
Version: $version
Architecture: $2
Maintainer: virtswarm maintainers <maintainers@virtswarm.example>
Section: admin
Priority: optional
$(cat)
END
}

# script NAME writes a script of the package's.
script() {
	{ printf '#!/bin/sh\nset -e\n' && cat; } >"$root/DEBIAN/$1"
	chmod 755 "$root/DEBIAN/$1"
}

# end PACKAGE ARCHITECTURE makes the package of $root.
end() {
	install -D -m 644 LICENSE "$root/usr/share/doc/$1/copyright"
	if [ -d "$root/etc" ]; then
		find "$root/etc" -type f -printf '/etc/%P\n' >"$root/DEBIAN/conffiles"
	fi
	mkdir -p "$out"
	dpkg-deb --build --root-owner-group "$root" "$out/$1_${version}_$2.deb"
	rm -rf "$root"
}

host() {
	arch=$(dpkg --print-architecture)
	begin
	${GO:-go} build -trimpath -ldflags "-X github.com/virtswarm/virtswarm/internal/api.release=v$version" -o "$root/usr/bin/" \
		./cmd/virtswarm ./cmd/virtswarmd
	install -D -m 644 -t "$root/etc/virtswarm" packaging/virtswarm.yaml
	install -D -m 644 -t "$root/lib/systemd/system" packaging/systemd/virtswarmd.service
	install -D -m 755 -t "$root/etc/libvirt/hooks/qemu.d" packaging/libvirt/virtswarm
	install -D -m 644 -t "$root/usr/share/doc/virtswarm" README.md CHANGELOG.md docs/*.md
	control virtswarm "$arch" <<'END'
Depends: libc6
Suggests: libvirt-daemon-system
Description: hypervisor hosts that act as one swarm
 A small daemon on each host: together they keep a catalogue of files and of
 libvirt domains, shard each file over the hosts, and move files host to host.
 A libvirt hook makes files present before a domain starts.
END
	# The daemon starts when an operator enables it, and then waits until it is told its cluster (first_start: wait).
	script postinst <<'END'
[ ! -d /run/systemd/system ] || systemctl daemon-reload
# libvirt looks for hooks when it starts.
if [ "$1" = configure ] && [ -z "$2" ] && [ -d /run/systemd/system ]; then
	for unit in libvirtd virtqemud; do
		! systemctl -q is-active $unit || echo "virtswarm: $unit calls the hook after: systemctl restart $unit (domains run on)" >&2
	done
fi
[ "$1" != configure ] || [ -z "$2" ] || [ ! -d /run/systemd/system ] || systemctl try-restart virtswarmd
END
	script prerm <<'END'
[ "$1" != remove ] || [ ! -d /run/systemd/system ] || systemctl disable --now virtswarmd
END
	end virtswarm "$arch"
}

# agent ARCHITECTURE: one static program, which needs nothing of the distribution.
agent() {
	begin
	CGO_ENABLED=0 GOFLAGS='' GOOS=linux GOARCH=$1 ${GO:-go} build -trimpath -ldflags "-s -w -X main.version=$version" \
		-o "$root/usr/bin/virtswarm-agent" ./cmd/virtswarm-agent
	echo "virtswarm-agent for $1: $(stat -c %s "$root/usr/bin/virtswarm-agent") bytes"
	install -D -m 644 -t "$root/lib/systemd/system" packaging/guest/virtswarm-sync@.service
	install -D -m 644 -t "$root/lib/udev/rules.d" packaging/guest/70-virtswarm-agent.rules
	install -D -m 644 -t "$root/usr/share/doc/virtswarm-agent" docs/guest.md
	install -D -m 644 -t "$root/usr/share/doc/virtswarm-agent/examples" packaging/guest/user-data packaging/guest/virtswarm-sync.openrc
	control virtswarm-agent "$1" <<'END'
Depends: passwd
Description: files for a virtual machine from its own host
 A static program that gets files from the machine's hypervisor host, over
 shared memory or vsock, without a network, and publishes files to the hosts.
 Each virtswarm-sync@ service keeps a directory equal to what the host gives.
END
	script postinst <<'END'
[ "$1" = configure ] || exit 0
getent group virtswarm >/dev/null || groupadd --system virtswarm
if [ -S /run/udev/control ]; then
	udevadm control --reload || :
	udevadm trigger --action=add --subsystem-match=pci --attr-match=vendor=0x1af4 --attr-match=device=0x1110 || :
fi
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
[ -z "$2" ] || systemctl try-restart 'virtswarm-sync@*.service'
END
	script prerm <<'END'
[ "$1" != remove ] || [ ! -d /run/systemd/system ] || systemctl stop 'virtswarm-sync@*.service'
END
	script postrm <<'END'
[ "$1" != purge ] || rm -f /etc/systemd/system/multi-user.target.wants/virtswarm-sync@*.service
END
	end virtswarm-agent "$1"
}

host
agent amd64
agent arm64
