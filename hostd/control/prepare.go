package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/virtswarm/virtswarm/hostd/hook"
	"github.com/virtswarm/virtswarm/hostd/virt"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// prepareLog is how often the log tells how far a start is that waits for its files.
const prepareLog = 5 * time.Second

// Start is a domain that libvirt is about to start, or to let arrive.
type Start struct {
	Domain    string
	Operation string // libvirt's word for it
	XML       []byte // the domain's definition
}

// PrepareProgress says which of the needed files is being made present, and how far that is.
type PrepareProgress struct {
	Need        int // its number, from 1
	Name        string
	Have, Total int64
	Rate        float64 // bytes a second
	Done        bool
}

// Prepare makes present what a domain needs. libvirt waits for it: nothing here asks libvirt.
func (g *Guests) Prepare(ctx context.Context, start Start, report func(PrepareProgress) error) error {
	d, err := start.Definition()
	if err != nil {
		return err
	}
	ctx, w, end := g.Starts.begin(ctx, start.Domain, d.UUID)
	defer end()
	d.Name = start.Domain
	return g.makePresent(ctx, d.Domain, report, func(file string) { g.Starts.awaits(w, file) })
}

// makePresent makes present on this host what a domain needs. waits is told, now and then, which file that takes a while.
func (g *Guests) makePresent(ctx context.Context, d placement.Domain, report func(PrepareProgress) error, waits func(file string)) error {
	log := g.Logger.Named("hook").With("domain", d.Name, "uuid", d.UUID)
	began, told := time.Now(), time.Now()
	var p PrepareProgress
	pace := newPace()
	err := g.Hook.Prepare(ctx, d.Needs, func(at hook.Progress) {
		p.Need, p.Name, p.Have, p.Total, p.Rate = at.Need, at.Name, at.Have, at.Total, at.Rate
		pace.tick(at.Have, func(float64) { report(p) }) // if the caller is gone, ctx ends
		if time.Since(began) >= awaitsAfter {
			waits(at.Name)
		}
		if time.Since(told) >= prepareLog {
			told = time.Now()
			log.Info("a start waits for a file", "file", at.Name, "have", at.Have, "of", at.Total)
		}
	})
	if cancelled := context.Cause(ctx); err != nil && errors.Is(cancelled, ErrCancelled) {
		err = cancelled
	}
	if err != nil {
		log.Warn("not all that a domain needs can be made present", "error", err, "took", time.Since(began))
		return reason.Explain(err, fmt.Sprintf("domain %.200q", d.Name))
	}
	if len(d.Needs) > 0 {
		log.Info("all that a domain needs is present", "files", len(d.Needs), "took", time.Since(began))
	}
	p.Done = true
	return report(p)
}

// Definition reads the domain's definition.
func (s Start) Definition() (virt.Definition, error) {
	domain := fmt.Sprintf("%.200q", s.Domain)
	d, err := virt.ParseDomain(s.XML)
	if err != nil {
		return d, reason.Wrap(reason.Usage, domain, err)
	}
	for _, fault := range d.Faults {
		if errors.Is(fault, virt.ErrBadMetadata) {
			return d, reason.Wrap(reason.Usage, domain, fault).WithHint("correct its metadata: virsh edit, or virtswarm guest needs")
		}
	}
	return d, nil
}
