// Package walls guards the architecture: which room may import which. It holds no code of the product, only the table
// of rooms and the tests over it, so that a wall falls in a failing test and not in a review.
package walls

// Module is this module's path.
const Module = "github.com/virtswarm/virtswarm"

// vocabulary may be imported by every room, also on its own floor: what a file is, and why something failed.
var vocabulary = []string{"internal/content", "internal/reason"}

// rooms gives every package of the module its floor. A room imports only from lower floors, never sideways except for
// what beside names. Packages below a room (their tests' helpers, generated code) live on the room's floor.
var rooms = map[string]struct {
	floor  int
	beside []string // rooms on the same floor that it may import all the same
}{
	"internal/content":   {floor: 0},
	"internal/reason":    {floor: 0},
	"internal/disk":      {floor: 0},
	"internal/wire":      {floor: 0},
	"internal/pki":       {floor: 0, beside: []string{"internal/disk"}},
	"internal/api":       {floor: 0},
	"internal/guestlink": {floor: 0},
	"internal/shmring":   {floor: 0},
	"internal/walls":     {floor: 0},
	"qmp":                {floor: 0},

	"internal/link": {floor: 1},
	"placement":     {floor: 1},

	"raft":        {floor: 2},
	"hostd/store": {floor: 2},
	"hostd/swarm": {floor: 2, beside: []string{"hostd/swarm/plan"}},
	"hostd/virt":  {floor: 2},

	"hostd/swarm/plan": {floor: 2},
	"hostd/swarm/sim":  {floor: 2, beside: []string{"hostd/swarm/plan"}}, // and swarmsim below it

	"hostd/fetch": {floor: 3},

	"hostd/keeper": {floor: 4},
	"hostd/hook":   {floor: 4},
	"hostd/guest":  {floor: 4},

	"hostd/observe": {floor: 5},
	"hostd/control": {floor: 5, beside: []string{"hostd/observe"}},
	"hostd/server":  {floor: 5, beside: []string{"hostd/control", "hostd/observe"}},
	"guestagent":    {floor: 5},
	"hostd":         {floor: 5, beside: []string{"hostd/server", "hostd/control", "hostd/observe"}},

	"hostd/simtest":       {floor: 6},
	"cmd/virtswarm":       {floor: 6},
	"cmd/virtswarmd":      {floor: 6},
	"cmd/virtswarm-agent": {floor: 6},
	"acceptance":          {floor: 7},
}

// onlyImporter names the one room that may import a package of somebody else, so that what is hard to test or to
// replace stays in one place.
var onlyImporter = map[string]string{
	"github.com/hashicorp/raft":       "raft",
	"lukechampine.com/blake3":         "internal/content",
	"libvirt.org/go/libvirt":          "hostd/virt",
	"github.com/digitalocean/go-qemu": "qmp",
	"github.com/mdlayher/vsock":       "internal/link",
	"github.com/hashicorp/yamux":      "internal/guestlink",
}

// pure rooms do no I/O, read no clock and start no goroutine.
var pure = map[string][]string{
	"placement":        {"os", "net", "time", "math/rand", "math/rand/v2", "sync"},
	"hostd/swarm/plan": {"os", "net", "context", "math/rand", "math/rand/v2", "sync", "sync/atomic"}, // of time only the values
}

// noImport lists what a room may not reach though the floors allow it: a command line tool speaks to a daemon by the
// API alone.
var noImport = map[string][]string{
	"cmd/virtswarm": {"hostd", "raft"},
	// What runs in a guest knows nothing of the host's rooms.
	"guestagent":          {"hostd", "raft", "placement", "qmp", "internal/api", "internal/pki"},
	"cmd/virtswarm-agent": {"hostd", "raft", "placement", "qmp", "internal/api", "internal/pki"},
	"hostd/hook":          {"hostd/virt"}, // libvirt waits for a hook: it would wait for itself
}

// messages are the API's generated types. Within a daemon hostd/server alone turns them into plain Go values and back.
const messages = "internal/api/virtswarm"

// mayUseMessages are the rooms that may import them.
var mayUseMessages = []string{"internal/api", "hostd/server", "hostd/simtest", "cmd/virtswarm", "acceptance"}

// knowFlags are the rooms that know command line flags: no other names one in a text. Others name fields, as package
// reason says.
var knowFlags = []string{"cmd/virtswarm", "cmd/virtswarmd", "cmd/virtswarm-agent", "guestagent", "hostd/swarm/sim", "acceptance"}

// doubles are the packages that stand in for something in tests, or test it: those whose name ends in "test". Only they
// themselves and what is named here may import them, or package testing; for all else they are there in tests alone.
const doubles = "test"

var mayUseDoubles = []string{"acceptance"}
