package api

import "testing"

func TestRates(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "none": 0, "8": 1, "200Mbit": 25_000_000, "200M": 25_000_000, "1G": 125_000_000, "2.5 Gbit/s": 312_500_000,
		"1kbit": 125, "1Tbit/s": 125_000_000_000,
	} {
		if got, err := ParseRate(text); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "fast", "-1M", "1", "1e30", "NaN", "InfG", "M", "10MiB"} {
		if got, err := ParseRate(text); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
	for _, n := range []int64{0, 125, 25_000_000, 125_000_000, 312_500_000} {
		if got, err := ParseRate(FormatRate(n)); err != nil || got != n {
			t.Errorf("%d is written %q and read %d, %v", n, FormatRate(n), got, err)
		}
	}
}

func TestPercents(t *testing.T) {
	for text, want := range map[string]int{"90%": 90, "1": 1, "100 %": 100} {
		if got, err := ParsePercent(text); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "101%", "-5", "half", "9.5%"} {
		if got, err := ParsePercent(text); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
}
