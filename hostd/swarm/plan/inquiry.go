package plan

import "time"

// Inquiry asks the holders of a file for its manifest: one after the other, the next one when one fails or takes longer
// than HedgeTime.
type Inquiry struct {
	holders []Host
	asked   int
	waiting int
	next    time.Time // when the next one is asked in any case
}

// NewInquiry begins to ask holders, at most MaxManifestHosts of them.
func NewInquiry(holders []Host) *Inquiry {
	return &Inquiry{holders: holders[:min(len(holders), MaxManifestHosts)]}
}

// Next returns whom to ask now, if anybody.
func (q *Inquiry) Next(now time.Time) (h Host, ok bool) {
	if q.asked == len(q.holders) || q.waiting > 0 && now.Before(q.next) {
		return Host{}, false
	}
	h = q.holders[q.asked]
	q.asked++
	q.waiting++
	q.next = now.Add(HedgeTime)
	return h, true
}

// Failed notes that one who was asked has not given it: the next one is asked at once.
func (q *Inquiry) Failed(now time.Time) {
	q.waiting--
	q.next = now
}

// Over says whether nobody is left to ask or to wait for.
func (q *Inquiry) Over() bool { return q.waiting == 0 && q.asked == len(q.holders) }

// Due returns when Next may have another one to ask.
func (q *Inquiry) Due() time.Time { return q.next }

// Asked returns how many holders will have been asked at most.
func (q *Inquiry) Asked() int { return len(q.holders) }
