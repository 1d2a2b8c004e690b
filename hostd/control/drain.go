package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

// DrainProgress says how far a drain is.
type DrainProgress struct {
	ID    placement.HostID
	Host  string
	Total placement.Drain // what had to become safe elsewhere
	Left  placement.Drain // of it
	Rate  float64         // bytes a second
	Done  bool
}

// Drain moves what a host holds off it, and keeps it from getting anything new, until Undrain. It refuses what could
// never end, unless forced. With wait it returns once the host may be switched off, and reports how it comes to that.
func (h *Hosts) Drain(ctx context.Context, name string, wait, force bool, report func(DrainProgress) error) error {
	h.fresh(ctx)
	host, err := h.hostNamed(name)
	if err != nil {
		return err
	}
	if !host.State.Serves() {
		return reason.Wrap(reason.Usage, host.Name, fmt.Errorf("the host is %s: nothing can be moved off it", host.State)).
			WithHint("what it held is made anew from other copies once it is lost; 'virtswarm leave' does so at once, and removes the host")
	}
	if host.State == placement.Alive {
		if !force {
			if err := h.canDrain(ctx, host); err != nil {
				return err
			}
		}
		if err := h.setState(ctx, host, placement.Leaving); err != nil {
			return err
		}
	}
	tell := func(left, total placement.Drain, rate float64) error {
		return report(DrainProgress{
			ID: host.ID, Host: host.Name, Total: total, Left: left, Rate: rate, Done: left.Shards == 0 || !wait,
		})
	}
	if !wait {
		left := h.draining(host.ID)
		return tell(left, left, 0)
	}
	var all placement.Drain
	err = h.awaitDrained(ctx, host, func(left, total placement.Drain, rate float64) error {
		if all = total; left.Shards == 0 { // the last word comes when the votes are where they are to be, too
			return nil
		}
		return tell(left, total, rate)
	})
	if err == nil {
		err = h.awaitVotes(ctx)
	}
	if err != nil {
		return reason.Explain(err, host.Name)
	}
	return tell(placement.Drain{}, all, 0)
}

// votePatience bounds the wait for votes to move: a host that is new has to be healthy for a while first.
const votePatience = 30 * time.Second

// awaitVotes waits until more than half of the voters are hosts that are there to stay: then all that are drained may
// be switched off at once. Where all hosts are drained, there is nothing to wait for.
func (h *Hosts) awaitVotes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, votePatience)
	defer cancel()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		voters := h.Node.Status().Voters
		staying, voting := 0, 0
		h.Node.View(func(s *placement.State) {
			for _, host := range s.Hosts() {
				if host.State != placement.Alive {
					continue
				}
				staying++
				if slices.Contains(voters, host.ID) {
					voting++
				}
			}
		})
		if staying == 0 || voting > len(voters)/2 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: its data is safe elsewhere, but of %d voters only %d are hosts that are up and not drained",
				raft.ErrQuorum, len(voters), voting)
		case <-poll.C:
		}
	}
}

// Undrain takes back a drain. It returns the host as it is then, and the index of the catalogue's last entry.
func (h *Hosts) Undrain(ctx context.Context, name string) (Host, uint64, error) {
	h.fresh(ctx)
	host, err := h.hostNamed(name)
	if err != nil {
		return Host{}, 0, err
	}
	if host.State != placement.Leaving {
		return Host{}, 0, reason.Wrap(reason.Usage, host.Name, fmt.Errorf("the host is not drained, it is %s", host.State))
	}
	if err := h.setState(ctx, host, placement.Alive); err != nil {
		return Host{}, 0, err
	}
	return h.hostNow(host.ID), h.Node.AppliedIndex(), nil
}

// setState moves a host from the state that it was seen in to another one.
func (h *Hosts) setState(ctx context.Context, host placement.Host, to placement.HostState) error {
	_, err := h.write(ctx, placement.Command{SetHostState: &placement.SetHostState{
		ID: host.ID, From: host.State, To: to, Now: h.Now().Unix(),
	}}, host.Name)
	if err != nil {
		return err
	}
	if now, err := h.hostNamed(string(host.ID)); err != nil || now.State != to {
		return reason.Wrap(reason.Usage, host.Name, fmt.Errorf("the host became %s meanwhile", now.State)).WithHint("look with 'virtswarm hosts', and repeat")
	}
	return nil
}

func (h *Hosts) draining(host placement.HostID) (d placement.Drain) {
	h.Node.View(func(s *placement.State) { d = s.Draining(host) })
	return d
}

// awaitDrained reports how what a host holds becomes safe elsewhere, and returns when all of it is.
func (h *Hosts) awaitDrained(ctx context.Context, host placement.Host, report func(left, total placement.Drain, rate float64) error) error {
	var total placement.Drain
	pace := newPace()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		changed := h.Node.Changed()
		now, err := h.hostNamed(string(host.ID))
		if err != nil {
			return err
		}
		if now.State == placement.Alive {
			return reason.Wrap(reason.Usage, host.Name, errors.New("the order was taken back meanwhile"))
		}
		var left placement.Drain
		h.Node.View(func(s *placement.State) {
			left = s.Draining(host.ID)
			err = s.CanDrain(host.ID)
		})
		if errors.Is(err, placement.ErrLastHost) {
			return err
		}
		if left.Shards >= total.Shards { // more was published meanwhile
			total = left
		}
		if left.Shards == 0 {
			return report(left, total, 0)
		}
		err = nil
		pace.tick(total.Bytes-left.Bytes, func(rate float64) { err = report(left, total, rate) })
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-poll.C:
		}
	}
}

// canDrain refuses what could never end: too few other hosts, or no room on them. Their caches count as room.
func (h *Hosts) canDrain(ctx context.Context, host placement.Host) error {
	var others []placement.Host
	var need int64
	kept := map[placement.HostID]int64{}
	var err error
	h.Node.View(func(s *placement.State) {
		if err = s.CanDrain(host.ID); err != nil {
			return
		}
		need = s.Load(host.ID).Bytes
		for _, o := range s.Hosts() {
			if o.ID != host.ID && o.State == placement.Alive {
				others = append(others, o)
				kept[o.ID] = s.Load(o.ID).Bytes
			}
		}
	})
	if err != nil {
		e := reason.Wrap(reason.Of(err), host.Name, err)
		return e.WithHint("add hosts, or publish again with fewer `replicas`; with `force` it is drained as far as the others can hold it")
	}
	var room int64
	var silent []string
	for _, r := range h.reports(ctx, others, false) {
		if r.Unreachable != "" {
			silent = append(silent, r.Host)
			continue
		}
		room += max(0, r.Store.Budget-kept[r.ID])
	}
	if room >= need {
		return nil
	}
	why := fmt.Errorf("it must keep %s, and the other hosts have room for %s", humanize.IBytes(uint64(need)), humanize.IBytes(uint64(room)))
	if len(silent) > 0 {
		why = fmt.Errorf("%w (%s did not say)", why, strings.Join(silent, ", "))
	}
	return reason.Wrap(reason.NoSpace, host.Name, why).
		WithHint("add room or hosts, or remove files; with `force` it is drained as far as the others can hold it")
}
