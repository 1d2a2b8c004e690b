package observe

import (
	"testing"

	"github.com/virtswarm/virtswarm/qmp"
)

func TestStrayMemory(t *testing.T) {
	if d := unmanagedDomain(qmp.Guest{UUID: "u", Shm: 1 << 20}); d.Shm != 1<<20 {
		t.Errorf("%+v", d)
	}
}
