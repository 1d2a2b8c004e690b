package walls

import (
	"go/ast"
	"go/token"
	"go/types"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

// The swarm's conversation is decided in one room, which two drivers carry out: the daemon's and the simulator's.
const (
	planRoom = Module + "/hostd/swarm/plan"
	daemon   = Module + "/hostd/swarm"
	simulate = Module + "/hostd/swarm/sim"
)

// machines are the types of the plan that decide.
var machines = []string{"Job", "Server", "Sessions", "Budget", "Throttle", "Peer", "Claim", "Inquiry"}

// answers are the types of the plan whose values a driver must all know.
var answers = []string{"Verb", "ServerVerb"}

// notSimulated is what the simulator need not call, and why.
var notSimulated = map[string]string{
	"Server.Fetched": "whether to keep a chunk in memory",
	"Job.Drop":       "no simulated caller gives up",
	"Job.Has":        "counts duplicates for operators",
	"Job.Known":      "for an error's text",
	"Job.Rate":       "for a caller's progress",
	"Job.Received":   "for operators",
	"Job.Sources":    "for a caller's progress",
	"Claim.Lacks":    "for a caller's progress",
	"Claim.Left":     "for an error's text",
	"Budget.Owed":    "for operators",
	"Sessions.Links": "for operators",
	"Throttle.Set":   "no simulated operator sets a rate",
	"Throttle.Wait":  "when to look at the budget again; no simulated operator sets a rate",
	"NewInquiry":     "simulated hosts know the manifest",
	"Inquiry.Next":   "likewise",
	"Inquiry.Failed": "likewise",
	"Inquiry.Over":   "likewise",
	"Inquiry.Due":    "likewise",
	"Inquiry.Asked":  "likewise",
}

// parts are the plan's own: a driver that used one would decide something by itself.
var parts = []string{"Picker", "Giver", "Uplink", "Pace", "Source", "Follower", "Asker", "Ticket", "NewPicker", "NewGiver", "NewUplink"}

// notProtocol is what the drivers may declare constants of, and why.
var notProtocol = map[string]string{
	"latency": "the modelled network", "handshake": "the modelled network", "window": "the modelled network",
	"mbit": "a unit", "gbit": "a unit", "kib": "a unit", "mib": "a unit", "gib": "a unit",
	"coarse": "the modelled chunks", "small": "a scenario", "plain": "a scenario",
	"eventQueue": "the loop's memory", "MaxHot": "memory", "maxRecent": "what operators see", "maxGivers": "what operators see",
	"flowTime": "what operators see",
}

// TestDriversUseOnePlan: whatever of the plan decides, both drivers call, and neither decides beside it.
func TestDriversUseOnePlan(t *testing.T) {
	pkgs := loadTyped(t)
	used := map[string]map[string]bool{daemon: uses(pkgs[daemon]), simulate: uses(pkgs[simulate])}
	decisions := decisionsOf(pkgs[planRoom].Types)
	if len(decisions) < 50 {
		t.Fatalf("only %d decisions found: %v", len(decisions), decisions)
	}
	for _, d := range decisions {
		if !used[daemon][d] {
			t.Errorf("%s does not use plan.%s", daemon, d)
		}
		if why := notSimulated[d]; !used[simulate][d] && why == "" {
			t.Errorf("%s does not use plan.%s", simulate, d)
		}
	}
	for driver, of := range used {
		for _, part := range parts {
			if of[part] {
				t.Errorf("%s uses plan.%s, which belongs to the plan", driver, part)
			}
		}
	}
	for d, why := range notSimulated {
		if !slices.Contains(decisions, d) {
			t.Errorf("plan.%s, which is not simulated because %q, does not exist", d, why)
		}
	}
}

// TestDriversDeclareNoLimits: times, numbers and bytes of the protocol stand in the plan alone.
func TestDriversDeclareNoLimits(t *testing.T) {
	pkgs := loadTyped(t)
	for _, path := range []string{daemon, simulate} {
		for name, c := range constants(pkgs[path]) {
			if _, ok := notProtocol[name]; !ok {
				t.Errorf("%s declares %s = %s: if it is the protocol's, it belongs to the plan", path, name, c)
			}
		}
	}
}

func loadTyped(t *testing.T) map[string]*packages.Package {
	t.Helper()
	cfg := &packages.Config{Dir: "../..", Mode: packages.NeedName | packages.NeedImports | packages.NeedDeps | packages.NeedTypes |
		packages.NeedTypesInfo | packages.NeedSyntax}
	all, err := packages.Load(cfg, planRoom, daemon, simulate)
	if err != nil || packages.PrintErrors(all) > 0 {
		t.Fatalf("load the swarm: %v", err)
	}
	pkgs := map[string]*packages.Package{}
	for _, p := range all {
		pkgs[p.PkgPath] = p
	}
	return pkgs
}

// decisionsOf lists the exported methods and makers of the plan's machines, and the values of its answers.
func decisionsOf(p *types.Package) (names []string) {
	for _, name := range p.Scope().Names() {
		switch o := p.Scope().Lookup(name).(type) {
		case *types.TypeName:
			if !slices.Contains(machines, name) {
				continue
			}
			methods := types.NewMethodSet(types.NewPointer(o.Type()))
			for i := range methods.Len() {
				if m := methods.At(i).Obj(); m.Exported() && !isGranter(name, m.Name()) {
					names = append(names, name+"."+m.Name())
				}
			}
		case *types.Const:
			if n, ok := o.Type().(*types.Named); ok && slices.Contains(answers, n.Obj().Name()) {
				names = append(names, name)
			}
		case *types.Func:
			if slices.Contains(machines, strings.TrimPrefix(name, "New")) && strings.HasPrefix(name, "New") {
				names = append(names, name)
			}
		}
	}
	return names
}

// isGranter says whether a method is what the Server is to its own Uplink.
func isGranter(machine, method string) bool {
	return machine == "Server" && (method == "Load" || method == "Grant")
}

// uses lists what a package uses of the plan: "Name" or "Type.Method".
func uses(p *packages.Package) map[string]bool {
	names := map[string]bool{}
	for _, o := range p.TypesInfo.Uses {
		if o.Pkg() == nil || o.Pkg().Path() != planRoom {
			continue
		}
		name := o.Name()
		if f, ok := o.(*types.Func); ok {
			if recv := f.Signature().Recv(); recv != nil {
				of := recv.Type()
				if ptr, ok := of.(*types.Pointer); ok {
					of = ptr.Elem()
				}
				name = of.(*types.Named).Obj().Name() + "." + name
			}
		}
		names[name] = true
	}
	return names
}

// constants returns the constants of a package that have a value of their own: neither another package's, nor an iota.
func constants(p *packages.Package) map[string]string {
	own := map[string]string{}
	for _, f := range p.Syntax {
		for _, d := range f.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.CONST {
				for _, spec := range g.Specs {
					maps.Copy(own, valued(p, spec.(*ast.ValueSpec)))
				}
			}
		}
	}
	return own
}

func valued(p *packages.Package, v *ast.ValueSpec) map[string]string {
	own := map[string]string{}
	for i, name := range v.Names {
		if i >= len(v.Values) {
			continue // repeats an iota
		}
		switch e := v.Values[i].(type) {
		case *ast.SelectorExpr:
			continue
		case *ast.Ident:
			if e.Name == "iota" {
				continue
			}
		case *ast.BinaryExpr:
			if x, ok := e.X.(*ast.Ident); ok && x.Name == "iota" {
				continue
			}
		}
		own[name.Name] = p.TypesInfo.Defs[name].(*types.Const).Val().String()
	}
	return own
}
