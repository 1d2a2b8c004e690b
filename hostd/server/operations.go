package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/virtswarm/virtswarm/hostd/control"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// Operations is the Host of a daemon: it turns the API's messages into calls of the operations, and their answers into
// messages. What a message cannot mean is refused here; all else is the operations' business. It is safe for concurrent
// use.
type Operations struct {
	Files    *control.Files
	HostOps  *control.Hosts
	GuestOps *control.Guests
	StrayOps *control.Strays
	Reports  *control.Reports
	// ScrubRate bounds a scrub for which no rate is asked, in bytes a second.
	ScrubRate int64
	// Forwarded carries out what another host forwards to the leader.
	// Located notes that a member is at an address, and tells where others are; a member is named by its id.
	Located   func(member placement.HostID, addr string) map[placement.HostID]string
	Forwarded func(ctx context.Context, op string, payload []byte) ([]byte, error)
}

var _ Host = (*Operations)(nil)

// Forward implements ClusterHost.
func (o *Operations) Forward(ctx context.Context, req *v1.ForwardRequest) (*v1.ForwardResponse, error) {
	result, err := o.Forwarded(ctx, req.GetOp(), req.GetPayload())
	if err != nil {
		return nil, reason.Explain(err, "")
	}
	return &v1.ForwardResponse{Result: result}, nil
}

// Locate implements ClusterHost.
func (o *Operations) Locate(ctx context.Context, req *v1.LocateRequest) (*v1.LocateResponse, error) {
	peer, ok := PeerOf(ctx)
	if !ok {
		return nil, reason.Wrap(reason.NotMember, "", nil)
	}
	if _, _, err := net.SplitHostPort(req.GetAddress()); err != nil || len(req.GetAddress()) > maxAddress {
		return nil, reason.Wrap(reason.Usage, fmt.Sprintf("%.200q", req.GetAddress()), errors.New("it is not HOST:PORT"))
	}
	r := &v1.LocateResponse{}
	for id, addr := range o.Located(placement.HostID(peer), req.GetAddress()) {
		r.Locations = append(r.Locations, &v1.Location{HostId: string(id), Address: addr})
	}
	return r, nil
}

// maxAddress bounds an address, in bytes: a DNS name and a port.
const maxAddress = 300

// parseID reads a version's digest; none gives the zero digest, which means the newest version.
func parseID(id string) (content.Digest, error) {
	if id == "" {
		return content.Digest{}, nil
	}
	d, err := content.ParseDigest(id)
	if err != nil {
		return d, reason.Wrap(reason.Usage, id, err)
	}
	if d.IsZero() { // to the operations it would mean the newest version; no content has this digest
		return d, reason.Wrap(reason.NotFound, id, nil)
	}
	return d, nil
}

// parseRef reads what a request means.
func parseRef(name, id string) (control.Ref, error) {
	d, err := parseID(id)
	return control.Ref{Name: name, ID: d}, err
}

// bytesOf checks that a number of bytes of a request is one that exists; field is the request's.
func bytesOf(field string, n uint64) (int64, error) {
	if n > placement.MaxQuota {
		return 0, reason.Wrap(reason.Usage, "`"+field+"`", fmt.Errorf("%d is too much", n))
	}
	return int64(n), nil
}

// idText gives a digest in the API's words: nothing for none.
func idText(id content.Digest) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

// unixTime gives a time in the API's words: 0 for one that is not known.
func unixTime(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// timeOf is the inverse of unixTime.
func timeOf(unix int64) time.Time {
	if unix == 0 {
		return time.Time{}
	}
	return time.Unix(unix, 0)
}

func staleness(s control.Staleness) *v1.Staleness {
	return &v1.Staleness{Stale: s.Stale, SecondsWithoutLeader: s.Silence.Seconds(), Index: s.Index}
}

// list converts the elements of a list.
func list[T, M any](in []T, convert func(T) M) []M {
	var out []M
	for _, v := range in {
		out = append(out, convert(v))
	}
	return out
}
