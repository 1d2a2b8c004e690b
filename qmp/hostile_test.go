package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// with is an honest guest but for one answer.
func with(query, reply string) scripted {
	s := honest(someUUID)
	s[query] = reply
	return s
}

// ready greets, and takes the capabilities command.
func ready(c net.Conn) {
	io.WriteString(c, greeting)
	skip(c)
	io.WriteString(c, `{"return": {}, "id": 1}`+"\n")
}

// skip takes one command.
func skip(c net.Conn) { json.NewDecoder(c).Decode(new(any)) }

// hold says nothing more until the other side hangs up.
func hold(c net.Conn) { io.Copy(io.Discard, c) }

// endless says the same until the other side hangs up.
func endless(c net.Conn, s string) (said int64) {
	block := []byte(strings.Repeat(s, 1+4096/len(s)))
	for {
		n, err := c.Write(block)
		said += int64(n)
		if err != nil {
			return said
		}
	}
}

// TestEventsBeforeTheGreeting: QEMU may give the next client what was left of the one before.
func TestEventsBeforeTheGreeting(t *testing.T) {
	dir := t.TempDir()
	serve(t, filepath.Join(dir, "a.qmp"), func(c net.Conn) {
		io.WriteString(c, strings.Repeat(`{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}`+"\r\n", 3))
		honest(someUUID).run(c)
	})
	w, log := watch(t, quick(), Config{Paths: []string{dir}})
	await(t, w, "a guest", count(1))
	if said, _ := log.lines("[WARN]"); len(said) > 0 {
		t.Errorf("it warns: %q", said)
	}
}

// hostile are peers, and what is said of them. None of them has a guest.
var hostile = map[string]struct {
	script func(net.Conn)
	want   error
}{
	"http":               {func(c net.Conn) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n"); hold(c) }, ErrNotQMP},
	"blank lines":        {func(c net.Conn) { endless(c, "\n") }, ErrNotQMP},
	"zeros":              {func(c net.Conn) { endless(c, "\x00") }, ErrNotQMP},
	"hangs up":           {func(c net.Conn) {}, ErrEnded},
	"half a greeting":    {func(c net.Conn) { io.WriteString(c, greeting[:40]) }, ErrEnded},
	"stalls in greeting": {func(c net.Conn) { io.WriteString(c, greeting[:40]); hold(c) }, ErrSilent},
	"drips its greeting": {func(c net.Conn) {
		for i := 0; ; i = min(i+1, 40) {
			if _, err := io.WriteString(c, greeting[i:i+1]); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}, ErrSilent},
	"endless line":        {func(c net.Conn) { io.WriteString(c, `{"QMP": "`); endless(c, "x") }, ErrTooLarge},
	"endless lines":       {func(c net.Conn) { endless(c, "{\n ") }, ErrTooLarge},
	"object":              {func(c net.Conn) { io.WriteString(c, "{}\n"); hold(c) }, ErrNotQMP},
	"events, no greeting": {func(c net.Conn) { endless(c, `{"event": "STOP"}`+"\n") }, ErrNotQMP},
	"broken JSON":         {func(c net.Conn) { io.WriteString(c, `{"QMP": }`+"\n"); hold(c) }, ErrNotQMP},
	"deep JSON":           {func(c net.Conn) { io.WriteString(c, `{"QMP": `+strings.Repeat("[", 1<<20)+"}\n"); hold(c) }, ErrNotQMP},
	"greets only":         {func(c net.Conn) { io.WriteString(c, greeting); hold(c) }, ErrSilent},
	"greets twice":        {func(c net.Conn) { io.WriteString(c, greeting+greeting); hold(c) }, ErrNotQMP},
	"refuses all": {func(c net.Conn) {
		io.WriteString(c, greeting)
		skip(c)
		io.WriteString(c, `{"error": {"class": "GenericError", "desc": "`+strings.Repeat("no", 1000)+`"}, "id": 1}`+"\n")
		hold(c)
	}, ErrRefused},
	"no id": {func(c net.Conn) { io.WriteString(c, greeting+`{"return": {}}`+"\n"); hold(c) }, ErrNotQMP},
	"future id": {func(c net.Conn) {
		io.WriteString(c, greeting)
		skip(c)
		io.WriteString(c, `{"return": {}, "id": 2}`+"\n")
		hold(c)
	}, ErrNotQMP},
	"string id":       {func(c net.Conn) { io.WriteString(c, greeting+`{"return": {}, "id": "1"}`+"\n"); hold(c) }, ErrNotQMP},
	"old ids only":    {func(c net.Conn) { ready(c); endless(c, `{"return": {}, "id": 1}`+"\n") }, ErrSilent},
	"answers nothing": {func(c net.Conn) { ready(c); hold(c) }, ErrSilent},
	"reads nothing":   {func(c net.Conn) { ready(c); endless(c, `{"event": "STOP"}`+"\n") }, ErrSilent},
	"leaves in reply": {func(c net.Conn) { ready(c); io.WriteString(c, `{"return": {"status": "run`) }, ErrEnded},
	"stalls in reply": {func(c net.Conn) { ready(c); io.WriteString(c, `{"return": {"status": "run`); hold(c) }, ErrSilent},
	"large event": {func(c net.Conn) {
		ready(c)
		io.WriteString(c, `{"event": "STOP", "data": {"x": [`+strings.Repeat("[],", 1<<17)+"[]]}}\n")
		hold(c)
	}, ErrTooLarge},
	"event of no object": {func(c net.Conn) { ready(c); io.WriteString(c, `{"event": "STOP", "data": 1}`+"\n"); hold(c) }, ErrNotQMP},
	"status of a number": {with("query-status", `{"status": 1}`).run, ErrNotQMP},
	"huge status":        {with("query-status", `{"status": "`+strings.Repeat("x", maxText+1)+`"}`).run, ErrTooLarge},
	"no UUID":            {with("query-uuid", `{"UUID": "../../etc/passwd"}`).run, ErrNotQMP},
	"huge name":          {with("query-name", `{"name": "`+strings.Repeat("x", maxText+1)+`"}`).run, ErrTooLarge},
	"negative memory":    {with("query-memory-size-summary", `{"base-memory": -1}`).run, ErrNotQMP},
	"too much memory":    {with("query-memory-size-summary", `{"base-memory": 18446744073709551615}`).run, ErrTooLarge},
	"many CPUs":          {with("query-cpus-fast", `[`+strings.Repeat(`{},`, maxCPUs)+`{}]`).run, ErrTooLarge},
	"CPUs of numbers":    {with("query-cpus-fast", `[1]`).run, ErrNotQMP},
	"blocks no list":     {with("query-block", `{}`).run, ErrNotQMP},
	"many devices":       {with("qom-list "+peripheral, `[`+strings.Repeat(`{},`, maxDevices)+`{}]`).run, ErrTooLarge},
	"CID of a string":    {with("qom-get "+peripheralAnon+"/device[0]", `"7"`).run, ErrNotQMP},
}

// TestHostilePeersFail: each gets its error, in time, and has said no more than it is allowed to.
func TestHostilePeersFail(t *testing.T) {
	for name, peer := range hostile {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limits := usual
			if peer.want == ErrSilent {
				limits.reply = time.Second
			}
			path := filepath.Join(t.TempDir(), "s")
			serve(t, path, peer.script)
			s, err := open(t.Context(), path, &limits, func() {})
			if err == nil {
				defer s.close()
				_, err = s.look(t.Context())
			}
			if !errors.Is(err, peer.want) {
				t.Errorf("got %v, want %v", err, peer.want)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
}

// TestHostilePeersBesideHonest: an honest guest is seen and stays among all of them, and they cost a bounded memory.
func TestHostilePeersBesideHonest(t *testing.T) {
	dir := t.TempDir()
	n := 0
	for _, peer := range hostile {
		serve(t, filepath.Join(dir, fmt.Sprintf("%02d.sock", n)), peer.script)
		n++
	}
	silent, err := net.Listen("unix", filepath.Join(dir, "silent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	statuses := []string{`{"status": "paused"}`, `{"status": "running"}`}
	var turn atomic.Int32
	kick := make(chan struct{})
	serve(t, filepath.Join(dir, "honest.qmp"), func(c net.Conn) {
		done := make(chan struct{})
		defer close(done)
		go func() {
			select {
			case <-kick:
				c.Close()
			case <-done:
			}
		}()
		with("query-status", statuses[turn.Add(1)%2]).run(c)
	})
	w, log := watch(t, quick(), Config{Paths: []string{dir}})
	for i := range 6 {
		want := []string{"running", "paused"}[i%2]
		await(t, w, want, func(g []Guest) bool { return len(g) == 1 && g[0].Status == want })
		kick <- struct{}{}
		await(t, w, "no guest", count(0))
	}
	log.await(t, "silent.sock", "another client")
	if found, _ := log.lines("WARN", "silent.sock"); len(found) != 1 {
		t.Errorf("%d warnings of the silent socket: %q", len(found), found)
	}
	if found, _ := log.lines("WARN"); len(found) > maxSaid*len(hostile) {
		t.Errorf("%d warnings", len(found))
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	if mem.HeapAlloc > 512<<20 {
		t.Errorf("heap of %d MiB", mem.HeapAlloc>>20)
	}
}

// TestEndlessPeerIsCutOff: how much of a message is taken in before the peer is cut off.
func TestEndlessPeerIsCutOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	said := make(chan int64, 1)
	serve(t, path, func(c net.Conn) { said <- endless(c, "{ ") })
	if _, err := open(t.Context(), path, &usual, func() {}); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
	if n := <-said; n > maxMessage+1<<20 { // what stood in the socket is counted, too
		t.Errorf("%d bytes taken", n)
	}
}

// TestFloodIsSlowed: who sends events without end is heard only so fast, and its commands still run.
func TestFloodIsSlowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	const event = `{"event": "STOP"}` + "\n"
	begin := make(chan struct{})
	said := make(chan int64, 1)
	serve(t, path, func(c net.Conn) {
		c.(*net.UnixConn).SetWriteBuffer(16 << 10) // what stands in the socket is said and not heard
		ready(c)
		<-begin
		said <- endless(c, event)
	})
	s, err := open(t.Context(), path, &usual, func() {})
	if err != nil {
		t.Fatal(err)
	}
	close(begin)
	start := time.Now()
	for range 3 {
		select {
		case <-s.dirty:
		case <-time.After(patience):
			t.Fatal("no event is heard")
		}
	}
	time.Sleep(time.Second) // a rate is measured over a time
	s.close()
	heard, took := <-said/int64(len(event)), time.Since(start)
	allowed := int64(readBurst+took.Seconds()*readPace)/minCost + (64<<10)/int64(len(event))
	if heard > allowed {
		t.Errorf("%d events heard in %v, more than %d", heard, took, allowed)
	}
}

// TestLateReply: the reply to a command that was given up is not taken for the next one's.
func TestLateReply(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	asked, given := make(chan struct{}), make(chan struct{})
	serve(t, path, func(c net.Conn) {
		ready(c)
		dec := json.NewDecoder(c)
		dec.Decode(new(any))
		close(asked)
		<-given
		dec.Decode(new(any))
		io.WriteString(c, `{"return": {"status": "old"}, "id": 2}`+"\n"+`{"return": {"status": "new"}, "id": 3}`+"\n")
		hold(c)
	})
	s, err := open(t.Context(), path, &usual, func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if err := s.do(ctx, "query-status", nil, nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	close(given)
	var status struct{ Status string }
	if err := s.do(t.Context(), "query-status", nil, &status); err != nil || status.Status != "new" {
		t.Errorf("%+v, %v", status, err)
	}
}

// TestInLine: a monitor that somebody else has is reported once and seen when that one leaves.
func TestInLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.qmp")
	leave := make(chan struct{})
	serve(t, path, func(c net.Conn) {
		<-leave
		honest(someUUID).run(c)
	})
	w, log := watch(t, quick(), Config{Paths: []string{path}})
	log.await(t, "WARN", "another client")
	close(leave)
	await(t, w, "one guest", count(1))
	if found, _ := log.lines("WARN"); len(found) != 1 {
		t.Errorf("warnings: %q", found)
	}
}

// TestRunEnds: whatever the peers do, and the last picture stays.
func TestRunEnds(t *testing.T) {
	dir := t.TempDir()
	serve(t, filepath.Join(dir, "a.qmp"), honest(someUUID).run)
	serve(t, filepath.Join(dir, "b.qmp"), hold)
	serve(t, filepath.Join(dir, "c.qmp"), func(c net.Conn) { ready(c); hold(c) })
	w := New(Config{Paths: []string{dir}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx)
	}()
	await(t, w, "one guest", count(1))
	changed := w.Changed()
	cancel()
	<-done
	if len(w.Guests()) != 1 {
		t.Error("the picture is gone")
	}
	select {
	case <-changed:
		t.Error("the picture changed")
	default:
	}
	if err := w.Unplug(t.Context(), someUUID, "x"); err == nil {
		t.Error("unplugged from a guest to which there is no connection")
	}
}
