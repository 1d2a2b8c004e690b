package swarm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/acceptance/netlab"
)

// scenario is something that happens to virtswarm while it distributes a file.
type scenario struct {
	key  string
	name string
	// racks are those of the publisher and the receivers; none is one for all.
	racks []int
	// run measures; undisturbed is what a run without the scenario took up to its last receiver, in seconds (with racks,
	// what a plain transfer over the trunk took).
	run func(ctx context.Context, c *cluster, undisturbed float64) (outcome, error)
	// figures are the headings of what it measures, in the order of the table.
	figures []string
}

func (s scenario) String() string { return s.key }

var allScenarios = []scenario{
	{
		key: "racks", name: "two racks of 4, a slow trunk between them", run: inRacks, racks: []int{1 + receivers/2, receivers / 2},
		figures: []string{trunkAway, trunkBack, trunkBoth, trunkTime},
	},
	{key: "slow", name: "one receiver at a tenth of the rate", run: withASlowOne, figures: []string{othersLast, othersRatio, slowLast}},
	{key: "late", name: "3 of 8 receivers join at half time", run: withLateOnes, figures: []string{othersLast, othersRatio, lateLast}},
	{key: "killed", name: "2 of 8 receivers killed at half time", run: withDeaths, figures: []string{othersLast, othersRatio}},
}

// Figures of scenarios.
const (
	trunkAway   = "trunk, from the publisher ÷ file"
	trunkBack   = "trunk, back ÷ file"
	trunkBoth   = "trunk, both ÷ file"
	trunkTime   = "last ÷ plain over the trunk"
	othersLast  = "others' last, s"
	othersRatio = "others' last ÷ undisturbed"
	slowLast    = "the slow one, s"
	lateLast    = "the late ones, s after joining"
)

// inRacks counts what passes between the racks.
func inRacks(ctx context.Context, c *cluster, plain float64) (outcome, error) {
	before, err := c.lab.Trunk(0)
	if err != nil {
		return outcome{}, err
	}
	o, err := c.toAll(ctx)
	if err != nil {
		return o, err
	}
	after, err := c.lab.Trunk(0)
	moved := after.Sub(before)
	o.Figures = map[string]float64{
		trunkAway: float64(moved.Sent) / float64(c.size),
		trunkBack: float64(moved.Received) / float64(c.size),
		trunkBoth: float64(moved.Sent+moved.Received) / float64(c.size),
		trunkTime: o.last() / plain,
	}
	return o, err
}

// lastAfter is the time from a start to the last of some ends, in seconds.
func lastAfter(start time.Time, at []time.Time) float64 {
	return slices.MaxFunc(at, time.Time.Compare).Sub(start).Seconds()
}

// undisturbedBy compares those to whom nothing happened with a run in which nothing happened to anybody.
func undisturbedBy(others, undisturbed float64) map[string]float64 {
	return map[string]float64{othersLast: others, othersRatio: others / undisturbed}
}

func withASlowOne(ctx context.Context, c *cluster, undisturbed float64) (outcome, error) {
	slow, rest := c.receivers[0], c.receivers[1:]
	rate := c.rate / 10
	if err := slow.host.SetRate(rate, rate); err != nil {
		return outcome{}, err
	}
	defer slow.host.SetRate(c.rate, c.rate)
	var at []time.Time
	o, err := c.spread(ctx, func() (_ []time.Time, err error) {
		if err = c.distribute(ctx, c.receivers); err != nil {
			return nil, err
		}
		if at, err = complete(ctx, rest); err != nil {
			return nil, err
		}
		last, err := complete(ctx, []*member{slow})
		return append(at, last...), err
	}, c.receivers)
	if err != nil {
		return o, err
	}
	o.Figures = undisturbedBy(lastAfter(c.began, at), undisturbed)
	o.Figures[slowLast] = o.last()
	return o, nil
}

func withLateOnes(ctx context.Context, c *cluster, undisturbed float64) (outcome, error) {
	late, rest := c.receivers[:3], c.receivers[3:]
	var at, lateAt []time.Time
	var joined time.Time
	o, err := c.spread(ctx, func() (_ []time.Time, err error) {
		if err = c.distribute(ctx, rest); err != nil {
			return nil, err
		}
		if err = c.halfTime(ctx, undisturbed); err != nil {
			return nil, err
		}
		joined = time.Now()
		if err = c.distribute(ctx, late); err != nil {
			return nil, err
		}
		if at, err = complete(ctx, rest); err != nil {
			return nil, err
		}
		lateAt, err = complete(ctx, late)
		return append(at, lateAt...), err
	}, c.receivers)
	if err != nil {
		return o, err
	}
	o.Figures = undisturbedBy(lastAfter(c.began, at), undisturbed)
	o.Figures[lateLast] = lastAfter(joined, lateAt)
	return o, nil
}

func withDeaths(ctx context.Context, c *cluster, undisturbed float64) (outcome, error) {
	dead, rest := c.receivers[:2], c.receivers[2:]
	o, err := c.spread(ctx, func() ([]time.Time, error) {
		if err := c.distribute(ctx, c.receivers); err != nil {
			return nil, err
		}
		if err := c.halfTime(ctx, undisturbed); err != nil {
			return nil, err
		}
		for _, m := range dead {
			m.proc.Kill()
			select {
			case <-m.brought.seen:
				return nil, errors.New("it was complete at half time: nothing was disturbed")
			default:
			}
		}
		return complete(ctx, rest)
	}, rest)
	if err != nil {
		return o, err
	}
	o.Figures = undisturbedBy(o.last(), undisturbed)
	return o, nil
}

// halfTime waits until half of an undisturbed run would be over.
func (c *cluster) halfTime(ctx context.Context, undisturbed float64) error {
	half := time.Duration(undisturbed / 2 * float64(time.Second))
	select {
	case <-time.After(time.Until(c.began.Add(half))):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// undisturbed is what the other scenarios are compared with.
var undisturbed = scenario{key: "undisturbed", name: "nothing happens", run: func(ctx context.Context, c *cluster, _ float64) (outcome, error) {
	return c.toAll(ctx)
}}

// labFor makes the network of a scenario.
func (s scenario) labFor(rate, trunk netlab.Rate) (*netlab.Lab, error) {
	if trunk == 0 {
		trunk = rate / 2
	}
	lab, err := netlab.New(netlab.Config{Hosts: 1 + receivers, Rate: rate, Racks: s.racks, Trunk: trunk})
	if err != nil {
		return nil, fmt.Errorf("make a lab for %s: %w", s.key, err)
	}
	return lab, nil
}
