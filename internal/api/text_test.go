package api

import (
	"context"
	"net"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// TestTextThatIsNotUTF8 is named and refused, not sent, wherever in a request it is.
func TestTextThatIsNotUTF8(t *testing.T) {
	const bad = "d\xe4r"
	c := NewClient(func(context.Context) (net.Conn, error) {
		return nil, context.Canceled
	})
	defer c.Close()
	stream := func(receive func() bool, err func() error) error {
		if receive() {
			t.Error("an event from nobody")
		}
		return err()
	}
	for name, ask := range map[string]func() error{
		"single": func() error { _, err := c.Control.List(t.Context(), &v1.ListRequest{Prefix: bad}); return err },
		"map key": func() error {
			_, err := c.Control.SetHost(t.Context(), &v1.SetHostRequest{Labels: map[string]string{bad: "x"}})
			return err
		},
		"stream": func() error {
			s, err := c.Control.Pull(t.Context(), &v1.PullRequest{Dest: "/" + bad})
			if err != nil {
				return err
			}
			return stream(s.Receive, s.Err)
		},
		"list": func() error {
			s, err := c.Control.Distribute(t.Context(), &v1.DistributeRequest{Hosts: []string{"hv1", bad}})
			if err != nil {
				return err
			}
			return stream(s.Receive, s.Err)
		},
		"nested": func() error {
			s, err := c.Control.PublishStream(t.Context())
			if err != nil {
				return err
			}
			return s.Send(&v1.PublishChunk{Request: &v1.PublishRequest{Name: bad}})
		},
	} {
		if e := AsError(ask()); e == nil || e.Reason != reason.Usage || e.Subject == "" {
			t.Errorf("%s: %v", name, e)
		}
	}
}

// TestErrorAboutOddBytes: what is not UTF-8 in an error keeps neither its reason nor the rest of it from arriving.
func TestErrorAboutOddBytes(t *testing.T) {
	sent := reason.Wrap(reason.NoSpace, "/d\xe4r/x", context.DeadlineExceeded).WithHint("take /d\xe4r away")
	wire, err := proto.Marshal(Detail(sent))
	if err != nil {
		t.Fatal(err)
	}
	var got v1.ErrorDetail
	if err := proto.Unmarshal(wire, &got); err != nil {
		t.Fatal(err)
	}
	if got.GetReason() != v1.Reason_REASON_NO_SPACE || got.GetSubject() != "/d\uFFFDr/x" || got.GetHint() != "take /d\uFFFDr away" {
		t.Errorf("got %v", &got)
	}
}

// TestAnswersAreCleaned: an answer with odd bytes anywhere can be sent, and the rest of it is what it was.
func TestAnswersAreCleaned(t *testing.T) {
	host := func(text string) *v1.Host {
		return &v1.Host{Name: text, Labels: map[string]string{text: text, "rack": "r1"}}
	}
	answer := func(text string) *v1.StatusResponse {
		return &v1.StatusResponse{Host: host(text), Voters: []string{"hv1", text}, Store: &v1.StoreUsage{Path: text, Files: 3}, Reports: []*v1.HostReport{{Host: text}}}
	}
	got, want := answer("d\xe4r"), answer("d\uFFFDr")
	CleanText(got)
	if _, err := proto.Marshal(got); err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
}
