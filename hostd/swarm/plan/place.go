package plan

// Place is where a host stands, by its labels. Hosts without a label stand together.
type Place struct{ Zone, Rack string }

// The distances between places.
const (
	SameRack = iota
	SameZone
	Elsewhere
)

// Distance tells how far apart two places are.
func (p Place) Distance(o Place) int {
	switch {
	case p.Zone != o.Zone:
		return Elsewhere
	case p.Rack != o.Rack:
		return SameZone
	}
	return SameRack
}
