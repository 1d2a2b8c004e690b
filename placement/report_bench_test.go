package placement

import "testing"

func BenchmarkReport(b *testing.B) {
	w := bigWorld(b)
	r := &Report{Host: hostID(3)}
	for _, d := range w.Must(hostID(3), 0) {
		if !d.Shards.Empty() && len(r.Holdings) < 50 {
			r.Holdings = append(r.Holdings, Holding(d))
		}
	}
	p, err := EncodeCommand(Command{Report: r})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := DecodeCommand(p); err != nil {
				b.Fatal(err)
			}
		}
	})
	var d Report
	for _, h := range r.Holdings {
		d.Dropped = append(d.Dropped, h.ID)
	}
	d.Host = r.Host
	b.Run("apply", func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			if i%2 == 0 {
				w.do(b, Command{Report: &d})
			} else {
				w.do(b, Command{Report: r})
			}
		}
	})
}
