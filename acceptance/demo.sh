#!/bin/bash
# Three daemons on loopback in a temporary directory: publish a file on one, distribute it to all, kill the publisher,
# pull the file at another host and compare it with the original. Cleans up after itself.
#   FILE=path acceptance/demo.sh      (default: a Debian 12 image that acceptance/image.sh builds)
set -euo pipefail
cd "$(dirname "$0")/.."
file=${FILE:-build/debian-12.raw}
[ -n "${FILE:-}" ] || acceptance/image.sh "$file"
[ -f "$file" ] || { echo "demo: FILE=$file is not a file" >&2; exit 1; }

work=$(mktemp -d "${TMPDIR:-/tmp}/virtswarm-demo.XXXXXX")
pids=()
cleanup() {
	for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
	for pid in "${pids[@]}"; do while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done; done
	rm -rf "$work"
}
trap cleanup EXIT

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '$ virtswarm %s\n' "$*"; bin/virtswarm --socket "$socket" "$@"; }
at() { socket=$work/$1.sock; }

# daemon NAME ADDRESS [JOIN FLAGS] starts one daemon and waits until it is ready.
daemon() {
	local name=$1 address=$2
	shift 2
	bin/virtswarmd --name "$name" --listen "$address" --data "$work/$name" --socket "$work/$name.sock" \
		--config "$work/demo.yaml" "$@" >"$work/$name.log" 2>&1 &
	pids+=($!)
	disown # so that bash does not report it as killed
	if ! bin/virtswarm --socket "$work/$name.sock" status --wait 30s >/dev/null; then
		cat "$work/$name.log" >&2
		exit 1
	fi
}

# So that the demo shows soon how a dead host's files are rebuilt; by default that begins after ten minutes.
printf 'host_timeout: 3s\ngrace: 3s\n' >"$work/demo.yaml"

say "Three hosts: alpha makes the cluster, beta and gamma join it with one-time tokens"
daemon alpha 127.117.0.1:17117
at alpha
daemon beta 127.117.0.2:17117 --join 127.117.0.1:17117 --token "$(bin/virtswarm --socket "$socket" token)"
daemon gamma 127.117.0.3:17117 --join 127.117.0.1:17117 --token "$(bin/virtswarm --socket "$socket" token)"
run hosts

say "Publish $file ($(du -h "$file" | cut -f1) of data) at alpha, with two copies"
run publish "$file" images/demo.raw --replicas 2
say "Put it on every host"
run distribute images/demo.raw --to all --watch
run ls

say "Kill alpha, the publisher, with SIGKILL"
kill -9 "${pids[0]}"
at gamma
say "Pull the file at gamma and compare it with the original"
run pull images/demo.raw "$work/pulled.raw"
want=$(sha256sum <"$file")
got=$(sha256sum <"$work/pulled.raw")
echo "original ${want%% *}"
echo "pulled   ${got%% *}"
[ "$want" = "$got" ] || { echo "demo: the pulled file differs" >&2; exit 1; }

say "What the two hosts left say"
run hosts
run ls
run status
say "The same bytes. Cleaning up."
