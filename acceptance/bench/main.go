// Command bench measures virtswarm beside its rivals and its limits, in one run, and prints ratios: machines differ and
// are noisy, ratios within a run less so. Every figure is a median.
//
//	bench pair       one host to another, beside nginx and a bare TLS copy
//	bench swarm      one host to eight, beside aria2, libtorrent, rsync-like chains and HTTP; as root
//	bench guest      a host and its guests, natively and emulated, beside what else brings a file into a guest; as root
//	bench catalogue  the catalogue at the size of a large cluster
//
// 'make bench-pair' and the like install what a bench needs and run it. All runs go to the directory results as JSON,
// with the date, the commit and the machine.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/virtswarm/virtswarm/acceptance/bench/catalogue"
	"github.com/virtswarm/virtswarm/acceptance/bench/guest"
	"github.com/virtswarm/virtswarm/acceptance/bench/pair"
	"github.com/virtswarm/virtswarm/acceptance/bench/swarm"
)

var benches = map[string]func(ctx context.Context, args []string) error{
	"pair": pair.Run, "swarm": swarm.Run, "guest": guest.Run, "catalogue": catalogue.Run,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) < 2 || benches[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: bench pair|swarm|guest|catalogue [flags]; with -h the flags")
		os.Exit(2)
	}
	if err := benches[os.Args[1]](ctx, os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "bench %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}
