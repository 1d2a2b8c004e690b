package placement

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

func ticketed(c Command, host int, number uint64) Command {
	c.Ticket = &Ticket{Host: hostID(host), Number: number}
	return c
}

// TestRepeatedRemovalSparesALaterPublication is the history that tickets are for, and its counterpart.
func TestRepeatedRemovalSparesALaterPublication(t *testing.T) {
	w := newWorld(t, 2)
	first := ticketed(publishing("f", 1, 1, 1, 1), 1, 1)
	w.do(t, first)
	remove := ticketed(Command{RemoveFile: &RemoveFile{Name: "f"}}, 2, 1)
	removed := w.do(t, remove)
	if again := w.do(t, first); again.Index >= removed.Index || w.Files() != 0 {
		t.Errorf("a repeated publication brought the file back: %+v", again)
	}
	w.do(t, ticketed(publishing("f", 2, 1, 1, 1), 1, 2))
	if again := w.do(t, remove); again.Index != removed.Index || !again.Changed || w.Files() != 1 {
		t.Errorf("a repeated removal says %+v and leaves %d files", again, w.Files())
	}
	w.do(t, ticketed(Command{RemoveFile: &RemoveFile{Name: "f"}}, 1, 3))
	refused := ticketed(Command{RemoveFile: &RemoveFile{Name: "f"}}, 2, 2)
	w.refuse(t, Command{RemoveFile: &RemoveFile{Name: "f"}}, ErrNoFile)
	if _, err := w.Apply(w.next+1, refused); !errors.Is(err, ErrNoFile) {
		t.Fatal(err)
	}
	w.next++
	w.do(t, publishing("f", 3, 1, 1, 1))
	w.refuse(t, refused, ErrNoFile)
}

// TestTicketsAreCarriedOutOnce sends commands of few hosts late, twice and out of order, with a restart from a snapshot
// now and then: each is carried out once at most, a repeat is told what the first was told, and only what is older than
// the window may be refused without having been carried out.
func TestTicketsAreCarriedOutOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, 2)
		type answer struct {
			r   Result
			err error
		}
		told := map[string]answer{}
		highest := map[HostID][]uint64{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			host := rapid.IntRange(1, 2).Draw(t, "host")
			number := uint64(rapid.IntRange(1, 20).Draw(t, "number"))
			key := fmt.Sprint(host, number)
			c := ticketed(drawnBy(host, number), host, number)
			before := image(t, w.State)
			w.next++
			r, err := w.Apply(w.next, c)
			if first, repeated := told[key]; repeated {
				if fmt.Sprint(r) != fmt.Sprint(first.r) || errors.Is(err, ErrNoFile) != errors.Is(first.err, ErrNoFile) || !bytes.Equal(before, image(t, w.State)) {
					t.Fatalf("ticket %s: first %+v, then %+v, %v", key, first, r, err)
				}
			} else {
				if r.Index != w.next {
					t.Fatalf("ticket %s was not carried out: %+v, %v", key, r, err)
				}
				told[key] = answer{r, err}
				highest[hostID(host)] = append(highest[hostID(host)], number)
			}
			if rapid.IntRange(0, 9).Draw(t, "restore") == 0 {
				s, err := restoreLines(bytes.NewReader(lines(t, w.State)))
				if err != nil {
					t.Fatalf("restore: %v", err)
				}
				w.State = s
			}
		}
		for host, numbers := range highest {
			if len(w.tickets[host]) != len(numbers) {
				t.Fatalf("%d tickets of host %s were used, %d are remembered", len(numbers), host, len(w.tickets[host]))
			}
		}
	})
}

// drawnBy is the one command that belongs to a ticket.
func drawnBy(host int, number uint64) Command {
	name := fmt.Sprint("f", number%3)
	if number%2 == 0 {
		return Command{RemoveFile: &RemoveFile{Name: name}}
	}
	return publishing(name, int(number), 1, 1, host)
}

func TestTicketsBeyondTheWindow(t *testing.T) {
	w := newWorld(t, 3)
	ask := func(number uint64) error {
		w.next++
		_, err := w.Apply(w.next, ticketed(drawnBy(2, number), 2, number))
		return err
	}
	for number := uint64(2); number < 2+MaxTickets; number++ {
		if err := ask(2 * number); err != nil && !errors.Is(err, ErrNoFile) {
			t.Fatal(err)
		}
	}
	frozen := w.Freeze()
	before := linesOf(t, frozen)
	if err := ask(3); !errors.Is(err, ErrOutcomeUnknown) || w.Files() != 0 {
		t.Errorf("a ticket below the window: %v, %d files", err, w.Files())
	}
	if err := ask(5); err != nil || w.Files() != 1 { // late, but above the lowest, which it replaces
		t.Errorf("a late ticket inside the window: %v, %d files", err, w.Files())
	}
	if err := ask(4); !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("a forgotten ticket: %v", err)
	}
	if n := len(w.tickets[hostID(2)]); n != MaxTickets {
		t.Errorf("%d tickets are remembered", n)
	}
	if !bytes.Equal(before, linesOf(t, frozen)) {
		t.Error("later tickets changed a picture that was taken before")
	}
	w.do(t, Command{RemoveHost: &RemoveHost{ID: hostID(2)}})
	if err := ask(1001); !errors.Is(err, ErrNoHost) || len(w.tickets) != 0 {
		t.Errorf("a ticket of a removed host: %v", err)
	}
	w.do(t, Command{CreateToken: &CreateToken{ID: tokenID(9), Hash: fmt.Sprintf("%064x", 9), Expires: 1000, Now: 100}})
	w.do(t, Command{AddHost: &AddHost{Host: hostNumbered(2), TokenID: tokenID(9), Now: 100}})
	if err := ask(1); err != nil {
		t.Errorf("the first ticket after it joined anew: %v", err)
	}
}

func TestSnapshotsWithoutTicketsAreRead(t *testing.T) {
	w := newWorld(t, 2)
	old := bytes.Replace(lines(t, w.State), fmt.Appendf(nil, `"version":%d`, snapshotVersion), []byte(`"version":2`), 1)
	old = seal(old[:bytes.LastIndexByte(old[:len(old)-1], '\n')+1])
	s, err := restoreLines(bytes.NewReader(old))
	if err != nil || !bytes.Equal(image(t, s), w.image(t)) {
		t.Fatalf("restored something else, or not: %v", err)
	}
	w.do(t, ticketed(publishing("a", 1, 1, 1, 1), 1, 7))
	head := lines(t, w.State)
	head = head[:bytes.LastIndexByte(head[:len(head)-1], '\n')+1]
	for _, bad := range []string{
		`{"tickets":{"host":"` + string(hostID(9)) + `","done":[{"number":1,"index":1}]}}`,
		`{"tickets":{"host":"` + string(hostID(2)) + `","done":[]}}`,
		`{"tickets":{"host":"` + string(hostID(2)) + `","done":[{"number":2,"index":1},{"number":2,"index":1}]}}`,
		`{"tickets":{"host":"` + string(hostID(2)) + `","done":[{"number":2,"index":100}]}}`,
		`{"tickets":{"host":"` + string(hostID(2)) + `","done":[{"number":2,"index":1,"refused":"moon"}]}}`,
	} {
		if _, err := restoreLines(bytes.NewReader(seal(append(bytes.Clone(head), bad+"\n"...)))); !errors.Is(err, ErrBadSnapshot) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
