# virtswarm: 'make demo' shows it at work, 'make test' tests it. Both install the Debian packages that they need.

export CGO_ENABLED ?= 1
# libvirt is loaded at run time where it is installed: building needs nothing of it.
export GOFLAGS ?= -tags=libvirt_dlopen
GO       ?= go
TESTARGS ?=
VERSION  ?= 0.2.0
PACKAGES  = acceptance/packages.sh

.PHONY: build deb demo test simtest soak check bench-pair bench-swarm bench-guest bench-catalogue bench-raftlog sim generate fuzz clean

build: ## the three programs, in bin/
	$(GO) build -trimpath -o bin/ ./cmd/...

deb: build ## Debian packages in build/: for hosts, and the agent for guests (amd64, arm64). VERSION=1.2.3
	GO="$(GO)" packaging/deb.sh $(VERSION)

demo: build ## three daemons on loopback: publish, distribute, kill, pull, compare. FILE=path for a file of yours
	acceptance/demo.sh

# One processor a package (two packages run at a time): the race detector's context of a synctest bubble's timers is used by
# several threads at once where there are several, and Go 1.26 crashes on it now and then. The real labs run last, alone.
test: build simtest ## every test, with the race detector
	$(PACKAGES) xfsprogs e2fsprogs util-linux iproute2 qemu-system-x86 qemu-utils busybox-static kmod lvm2 \
		libvirt-daemon libvirt-daemon-driver-qemu libvirt-daemon-system libvirt-clients
	$(GO) test -race -cpu 1 -timeout 30m $(TESTARGS) $$($(GO) list ./... | grep -v /acceptance)
	$(GO) test -race -timeout 45m $(TESTARGS) ./acceptance/...

simtest: ## whole daemons under mixed faults, 100 seeds, and the deliberate mistakes found; without the race detector. SIMTESTARGS='-seed=7 -v'
	$(GO) test -count=1 -timeout 10m ./hostd/simtest $(SIMTESTARGS)

soak: ## five real hosts under faults for SOAKTIME, by hand, as root: wrong bytes, lost versions, leaks. SOAKTIME=2m is the least
	$(PACKAGES) iproute2 util-linux
	SOAKTIME=$(or $(SOAKTIME),30m) $(GO) test ./acceptance -run '^TestSoak$$' -count=1 -v -timeout 0

check: ## formatting, vet, staticcheck, import walls, package docs
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "gofmt -w $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	cd acceptance/bench && $(GO) vet ./... && "$$($(GO) -C ../.. tool -n staticcheck)" ./...
	$(GO) test ./internal/walls

# The benches are a module of their own: what their rivals need is no need of the product's. All runs go to acceptance/bench/results.
bench-pair: build ## one host to another beside its rivals, as ratios. SIZE=1GiB TOOLS=file,virtswarm BENCHARGS='-runs 5'
	$(PACKAGES) nginx-light curl util-linux
	cd acceptance/bench && $(GO) run . pair $(BENCHARGS)

bench-swarm: build ## one host to eight beside its rivals, as root. TOOLS=virtswarm,plain RATE=100 SIZE=128MiB RUNS=1, or SCENARIO=racks,slow,late,killed
	$(PACKAGES) iproute2 util-linux socat aria2 python3-libtorrent nginx-light curl
	cd acceptance/bench && $(GO) run . swarm $(BENCHARGS)

bench-guest: build ## host to guest beside its rivals, natively and in an emulated guest, as root. SIZE=32MiB RUNS=1 TOOLS=raw,shm,nginx
	$(PACKAGES) iproute2 util-linux qemu-system-x86 busybox-static kmod e2fsprogs libvirt-clients nginx-light curl dropbear-bin \
		openssh-client qemu-guest-agent
	cd acceptance/bench && $(GO) run . guest $(BENCHARGS)

bench-catalogue: ## 10,000 files and 50 hosts in the catalogue: times, bytes, memory. BENCHARGS='-files 1000 -hosts 7'
	cd acceptance/bench && $(GO) run . catalogue $(BENCHARGS)

bench-raftlog: ## our Raft log beside raft-wal and raft-boltdb: appends, and what each says of damage. BENCHARGS='-dir /var/tmp'
	cd docs/decisions/raftlog && $(GO) run . $(BENCHARGS)

sim: ## the swarm's plan under up to 1,000 simulated hosts, as ratios to the bound; minutes. SIMARGS='-run fetchers'
	$(GO) run ./hostd/swarm/sim/swarmsim $(SIMARGS)

generate: ## the API's code from its .proto files
	$(PACKAGES) protobuf-compiler
	$(GO) generate ./internal/api/...

fuzz: ## every fuzz target for FUZZTIME (default 30s) each
	acceptance/fuzz.sh

clean:
	rm -rf bin build
