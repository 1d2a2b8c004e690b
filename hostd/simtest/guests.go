package simtest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/virtswarm/virtswarm/guestagent"
	"github.com/virtswarm/virtswarm/hostd"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/internal/link/linktest"
	"github.com/virtswarm/virtswarm/placement"
)

const (
	guestThink   = 400 * time.Millisecond
	guestTimeout = 5 * time.Second
	// noticeTime is how long a daemon may need to see that a guest has lost a right. It is told at once.
	noticeTime = time.Second
	// prepareTimeout is how long a domain waits for its image.
	prepareTimeout = 5 * time.Second
)

// guestSocket is the path at which a machine's daemon takes guest links of a domain.
func guestSocket(m *machine, uuid string) string { return fmt.Sprintf("/run/%s/%s.sock", m.name, uuid) }

// guests has the guests of domains read files, where they run and where they do not, and looks at their images, until
// it is over.
func (f *fleet) guests(rng *rand.Rand, over <-chan struct{}) {
	plug := f.w.fabric.Plug("guest")
	defer plug.Unplug(false)
	for {
		think := time.NewTimer(time.Duration(rng.Int64N(int64(guestThink))))
		select {
		case <-over:
			think.Stop()
			return
		case <-think.C:
		}
		f.lookAtImages()
		f.ask(plug, rng)
	}
}

// ask has a guest read a file. What it gets must be the file, and of a policy that lets it read.
func (f *fleet) ask(plug *linktest.Plug, rng *rand.Rand) {
	d := f.vms[rng.IntN(len(f.vms))]
	f.mu.Lock()
	m := d.at
	f.mu.Unlock()
	if m == nil || rng.IntN(4) == 0 {
		m = f.w.machines[rng.IntN(len(f.w.machines))]
	}
	name := fmt.Sprintf("f/%d", rng.IntN(nameCount))
	agent := &guestagent.Agent{
		Link: fmt.Sprintf("hybrid://%s:%d", guestSocket(m, d.UUID), guestlink.Port), Patience: -1, Network: plug,
	}
	ctx, cancel := context.WithTimeout(context.Background(), guestTimeout)
	defer cancel()
	asked := time.Now()
	var got bytes.Buffer
	if _, err := agent.PullTo(ctx, name, &got, guestagent.PullOptions{}); err != nil {
		return
	}
	f.w.count("a guest read a file")
	id, known := f.w.o.Pool.id(got.Bytes())
	if !known {
		f.w.violation("the guest of %s got wrong bytes of %s at host %s", d.Name, name, m.name)
		return
	}
	guests := f.w.o.Pool.guests[id]
	if since, forbidden := m.vms.forbidden(d.UUID, guests); forbidden && asked.Sub(since) > noticeTime {
		f.w.violation("the guest of %s was given %s (%s) at host %s %s after it had lost the right to it", d.Name, name, guests, m.name, asked.Sub(since))
	}
}

// boot makes an image present at a machine for a domain that is about to start there, as libvirt's hook does, and
// returns the version, false if there is none.
func (f *fleet) boot(m *machine, d *vm, rng *rand.Rand) (id content.Digest, ok bool) {
	name, id, ok := f.w.version(rng)
	if !ok {
		return id, false
	}
	xml := fmt.Sprintf(`<domain type="kvm"><name>%s</name><uuid>%s</uuid><metadata><v:domain xmlns:v="urn:virtswarm:domain:1">`+
		`<v:file name="%s" digest="%s"/></v:domain></metadata></domain>`, d.Name, d.UUID, name, id)
	alive, err := m.call(func(ctx context.Context, h *hostd.Host) error {
		ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
		defer cancel()
		req := &v1.PrepareRequest{Domain: d.Name, Operation: "prepare", Xml: []byte(xml)}
		return h.API().Prepare(ctx, req, func(*v1.PrepareProgress) error { return nil })
	})
	return id, alive && err == nil
}

// imagePath is where the bytes of a content are on every disk.
func imagePath(id content.Digest) string {
	return filepath.Join(dataDir, "store/files", id.Hex(), "data")
}

// give makes a content of the machine's store the disk of a domain.
func (d *vm) give(id content.Digest, m *machine) {
	_, disks := m.disk()
	d.image, d.imageAt, d.imageDisk, d.imageSince, d.looks = id, m, disks, m.w.fleet.claims.tick(), 0
	d.Disks = []placement.Disk{{Target: "vda", Chain: []string{imagePath(id)}}}
}

// lookAtImages looks whether the images of domains are where they were since the catalogue knows that they are used.
func (f *fleet) lookAtImages() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range f.vms {
		if d.image.IsZero() {
			continue
		}
		m := d.imageAt
		files, disks := m.disk()
		if d.at != m || d.imageDisk != disks {
			d.image = content.Digest{}
			continue
		}
		p, err := disk.ReadFile(files, imagePath(d.image), maxSize)
		id, known := f.w.o.Pool.id(p)
		switch {
		case err == nil && known && id == d.image:
			if d.looks > 0 || f.claimed(m, d) {
				d.looks++ // a daemon that has just told of it pins it a moment later
			}
		case d.looks > 1 && !f.w.isFlawed(m.name):
			f.w.violation("the image %s of %s is not whole any more on host %s: %d bytes, %v", d.image.Short(), d.Name, m.name, len(p), err)
			d.image = content.Digest{}
		default:
			d.looks = 0
		}
		if d.looks == 2 {
			f.w.count("an image was in use")
		}
	}
}

// claimed says whether a machine's daemon runs and has told the catalogue of a domain since that uses its image there.
func (f *fleet) claimed(m *machine, d *vm) (yes bool) {
	m.call(func(_ context.Context, h *hostd.Host) error {
		h.Catalogue(func(s *placement.State) {
			for _, c := range s.ClaimedBy(h.ID()) {
				yes = yes || c.UUID == d.UUID && c.Memory > d.imageSince
			}
		})
		return nil
	})
	return yes
}
