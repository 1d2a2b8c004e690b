package api

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Rates are written in bits a second with decimal units, as links are sold: "200Mbit", "1G", "2.5 Gbit/s". Inside they
// are bytes a second.

var rateUnits = []struct {
	suffix string
	bits   float64
}{{"T", 1e12}, {"G", 1e9}, {"M", 1e6}, {"k", 1e3}, {"K", 1e3}, {"", 1}}

// maxRate is far above any link, in bytes a second.
const maxRate = 1 << 50

// ParseRate reads a rate into bytes a second. "0" and "none" are no limit, 0.
func ParseRate(text string) (int64, error) {
	if text == "none" {
		return 0, nil
	}
	s := strings.TrimSuffix(strings.TrimSpace(text), "/s")
	s = strings.TrimSuffix(s, "bit")
	for _, u := range rateUnits {
		number, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		bytes := n * u.bits / 8
		if err != nil || math.IsNaN(n) || n < 0 || bytes > maxRate || n > 0 && bytes < 1 {
			break
		}
		return int64(bytes), nil
	}
	return 0, fmt.Errorf("%q is not a rate: write bits a second, such as 200Mbit or 1G, or none", text)
}

// FormatRate writes bytes a second as a rate that ParseRate reads.
func FormatRate(bytes int64) string {
	if bytes <= 0 {
		return "none"
	}
	bits := float64(bytes) * 8
	for _, u := range rateUnits {
		if bits >= u.bits {
			return strconv.FormatFloat(math.Round(bits/u.bits*100)/100, 'f', -1, 64) + u.suffix + "bit"
		}
	}
	return "none"
}

// ParsePercent reads a whole number of percent, 1 to 100, with or without its sign.
func ParsePercent(text string) (int, error) {
	n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(text, "%")))
	if err != nil || n < 1 || n > 100 {
		return 0, fmt.Errorf("%q is not a percentage from 1%% to 100%%", text)
	}
	return n, nil
}
