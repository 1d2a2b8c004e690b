package placement

// Times in the catalogue are those of the leader's clock: it stamps each command before the command is in the log. So
// one wrong clock spoils no more than what it stamps as leader.

// Stamp sets the time of a command to now, unix seconds, and reports whether it has one. An Adopt keeps the time at which
// its file was published. version is that of the cluster: below 4 a repeated Publish is known by its time.
func (c Command) Stamp(now int64, version int) bool {
	at := c.time()
	if at == nil || c.Publish != nil && version < ownTimes {
		return false
	}
	*at = now
	return true
}

// ownTimes is the cluster version from which on a time says nothing but when.
const ownTimes = 4

// time returns where a command has the time at which it is given, nil if it has none.
func (c Command) time() *int64 {
	switch {
	case c.InitCluster != nil:
		return &c.InitCluster.Now
	case c.AddHost != nil:
		return &c.AddHost.Now
	case c.SetHostState != nil:
		return &c.SetHostState.Now
	case c.CreateToken != nil:
		return &c.CreateToken.Now
	case c.Publish != nil:
		return &c.Publish.At
	case c.SetAuthority != nil:
		return &c.SetAuthority.Now
	}
	return nil
}

// Latest returns the latest time in the catalogue, unix seconds; 0 if there is none.
func (s *State) Latest() int64 { return s.latest }

// noteTime keeps the latest time.
func (s *State) noteTime(at int64) { s.latest = max(s.latest, at) }
