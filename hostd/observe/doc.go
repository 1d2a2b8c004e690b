// Package observe is what this host tells the catalogue, and what it finds wrong.
//
// [Holdings] tells which contents this disk holds, [Domains] which domains are here. Both compare what is with what the
// catalogue says of this host, and tell the difference: an event that is lost, late or seen twice does no harm. Nothing
// else writes this host's facts, and this host writes facts of no other. [InUse] keeps what the domains here use from
// being dropped.
//
// [Findings] decides what is wrong, with the cluster and with this host, in one place: pure rules over two snapshots of
// facts.
package observe
