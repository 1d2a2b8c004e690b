package simtest

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// input and output of an operation on one name, for the model.
type input struct {
	kind string
	id   string
}

type output struct {
	result   outcome
	newest   string
	versions int
}

// names is what one name may do: its state is its versions, the oldest first, separated by spaces. Each version is
// published once, so that one that appears twice was carried out twice.
var names = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, in, out any) (bool, any) {
		versions := strings.Fields(state.(string))
		i, o := in.(input), out.(output)
		after := state
		switch i.kind {
		case opPublish:
			if !slices.Contains(versions, i.id) {
				after = strings.Join(append(versions, i.id), " ")
			}
		case opRemove:
			if len(versions) > 0 && o.result == notFound || len(versions) == 0 && o.result == done {
				return false, state
			}
			after = ""
		default:
			newest := ""
			if len(versions) > 0 {
				newest = versions[len(versions)-1]
			}
			if o.versions != len(versions) || o.newest != newest {
				return false, state
			}
		}
		return true, after
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %+v", in, out) },
}

// porcupinePatience is real time, of which the checker may need any amount.
const porcupinePatience = 10 * time.Second

// checkNames looks whether there is an order of all operations that explains what was seen of each name. It is called
// outside of the bubble, whose clock stands still while it thinks.
func (w *world) checkNames() {
	for n := range nameCount {
		name := fmt.Sprintf("f/%d", n)
		if porcupine.CheckOperationsTimeout(names, w.operations(name), porcupinePatience) == porcupine.Illegal {
			w.violation("no order of the operations explains what was seen of %s", name)
		}
	}
}

// operations returns what concerns a name. What never came back may take effect at any time after its call.
func (w *world) operations(name string) (ops []porcupine.Operation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, op := range w.history.ops {
		p := porcupine.Operation{ClientId: i, Call: int64(op.order[0]), Return: int64(op.order[1])}
		in, out := input{kind: op.kind, id: op.id}, output{result: op.result}
		switch {
		case op.kind == opList && op.seen != nil:
			l := op.seen[name]
			out.newest, out.versions = l.id, l.versions
		case op.name != name || op.kind != opPublish && op.kind != opRemove:
			continue
		case op.result == unknown:
			p.Return = math.MaxInt64
		}
		p.Input, p.Output = in, out
		ops = append(ops, p)
	}
	return ops
}
