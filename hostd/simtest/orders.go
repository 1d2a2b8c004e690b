package simtest

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/anishathalye/porcupine"

	"github.com/virtswarm/virtswarm/hostd"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// What a version is to be held by is one register for each version and whom the order names, a host or a tag: it is
// true once that was ordered, and false once it was taken back. In the end the catalogue shows it.

// order is an order that a host, or the hosts of a tag, hold a version, or the end of it, as its client saw it.
type order struct {
	id   content.Digest
	whom string // id of a host, or tag:NAME
	hold bool
	read bool // it is none: the catalogue said in the end that hold is so
	call int
	back int // 0: nobody knows whether it took effect
}

// orderKey is what an order is about.
type orderKey struct {
	id   content.Digest
	whom string
}

var ordered = porcupine.Model{
	Init: func() any { return false },
	Step: func(state, in, _ any) (bool, any) {
		o := in.(*order)
		if o.read {
			return state.(bool) == o.hold, state
		}
		return true, o.hold
	},
	DescribeOperation: func(in, _ any) string { return fmt.Sprintf("%+v", in) },
}

// order has a machine order, or take back, that somebody holds a version.
func (c *client) order(m *machine, hold bool) {
	name, id, ok := c.w.version(c.rng)
	if !ok {
		return
	}
	to := c.w.machines[c.rng.IntN(len(c.w.machines))]
	to.mu.Lock()
	whom := string(to.id)
	to.mu.Unlock()
	if c.rng.IntN(3) == 0 {
		whom = policyWeb
	}
	kind := opDistribute
	if !hold {
		kind = opUnpin
	}
	op := c.w.began(c.n, m, kind, name)
	op.id = id.String()
	o := c.w.ordering(id, whom, hold)
	alive, err := m.call(func(ctx context.Context, h *hostd.Host) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		if !hold {
			_, err := h.API().Unpin(ctx, &v1.UnpinRequest{Name: name, Id: id.String(), Hosts: []string{whom}})
			return err
		}
		return h.API().Distribute(ctx, &v1.DistributeRequest{Name: name, Id: id.String(), Hosts: []string{whom}, Watch: c.rng.IntN(2) == 0},
			func(*v1.DistributeProgress) error { return nil })
	})
	c.w.ended(op, alive, err)
	if alive && err == nil {
		c.w.mu.Lock()
		c.w.history.order++
		o.back = c.w.history.order
		c.w.mu.Unlock()
	}
}

// ordering notes the call of an order.
func (w *world) ordering(id content.Digest, whom string, hold bool) *order {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.history.order++
	o := &order{id: id, whom: whom, hold: hold, call: w.history.order}
	w.orders = append(w.orders, o)
	return o
}

// version draws one of the versions that were acknowledged. It may have been removed since.
func (w *world) version(rng *rand.Rand) (name string, id content.Digest, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []*operation
	for _, op := range w.history.ops {
		if op.kind == opPublish && op.result == done {
			list = append(list, op)
		}
	}
	if len(list) == 0 {
		return "", id, false
	}
	op := list[len(list)-1-rng.IntN(min(len(list), 6))] // a late one: it is likely to be there
	id, err := content.ParseDigest(op.id)
	return op.name, id, err == nil
}

// readOrders notes what the catalogue says in the end of the versions and hosts that are there.
func (w *world) readOrders() {
	keys := map[orderKey]bool{}
	for _, o := range w.orders {
		keys[orderKey{o.id, o.whom}] = true
	}
	w.machines[0].call(func(_ context.Context, h *hostd.Host) error {
		h.Catalogue(func(s *placement.State) {
			for k := range keys {
				c, there := s.Content(k.id)
				_, member := s.Host(placement.HostID(k.whom))
				if !there || !member && k.whom != policyWeb {
					continue
				}
				hold := slices.Contains(c.Targets.Hosts, placement.HostID(k.whom)) || k.whom == policyWeb && slices.Contains(c.Targets.Tags, tagWeb)
				w.history.order += 2
				w.orders = append(w.orders, &order{
					id: k.id, whom: k.whom, hold: hold, read: true, call: w.history.order - 1, back: w.history.order,
				})
			}
		})
		return nil
	})
}

// checkOrders looks whether an order of all orders explains what the catalogue says of each in the end.
func (w *world) checkOrders() {
	ops := map[orderKey][]porcupine.Operation{}
	read := map[orderKey]bool{}
	for i, o := range w.orders {
		k := orderKey{o.id, o.whom}
		p := porcupine.Operation{ClientId: i, Input: o, Call: int64(o.call), Return: int64(o.back)}
		if o.back == 0 {
			p.Return = math.MaxInt64
		}
		ops[k] = append(ops[k], p)
		read[k] = read[k] || o.read
	}
	for k := range read {
		if !read[k] {
			continue
		}
		w.count("an order was looked at in the end")
		if porcupine.CheckOperationsTimeout(ordered, ops[k], porcupinePatience) == porcupine.Illegal {
			w.violation("an order is lost: that %s hold %s%s", k.whom, k.id.Short(), tellOrders(ops[k]))
		}
	}
}

func tellOrders(ops []porcupine.Operation) (text string) {
	for _, op := range ops {
		o := op.Input.(*order)
		text += fmt.Sprintf("\n  %d to %d: hold %v, read in the end: %v", o.call, o.back, o.hold, o.read)
	}
	return text
}
