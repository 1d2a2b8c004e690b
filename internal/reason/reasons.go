package reason

import "slices"

// Reason says why something failed. Its number is the exit code of a process that ends with it, and is a promise to
// programs: it never changes, and no other reason ever gets it.
type Reason int

// The reasons. The API's enum Reason has the same names and numbers.
const (
	Unexpected       Reason = 1
	Usage            Reason = 2
	SourceMissing    Reason = 10
	SourceNotRegular Reason = 11
	SourceUnreadable Reason = 12
	SourceChanged    Reason = 13
	InvalidName      Reason = 14
	NotFound         Reason = 15
	DestExists       Reason = 16
	NoSpace          Reason = 17
	BadToken         Reason = 18
	Unreachable      Reason = 19
	NoLeader         Reason = 20
	TooFewCopies     Reason = 21
	DamagedData      Reason = 22
	NoHolder         Reason = 23
	AddressInUse     Reason = 24
	NotMember        Reason = 25
	DamagedStore     Reason = 26
	DamagedLog       Reason = 27
	InvalidConfig    Reason = 28
	HostNameTaken    Reason = 29
	NoSuchHost       Reason = 30
	AlreadyRunning   Reason = 31
	NoSuchGuest      Reason = 32
	NoLibvirt        Reason = 33
	NoGuestLink      Reason = 34
	QuorumAtRisk     Reason = 35
	NoCluster        Reason = 36
	OldCopy          Reason = 37
	UnsafeRecovery   Reason = 38
	TooOld           Reason = 39
	MixedVersions    Reason = 40
	DestUnusable     Reason = 41
	InUse            Reason = 42
	NoDescriptors    Reason = 43
	DiskError        Reason = 44
	TimedOut         Reason = 45
	LimitReached     Reason = 46
	Interrupted      Reason = 130
)

// Explanation is what there is to say about a reason.
type Explanation struct {
	Reason Reason
	// Name is the reason in --json output and in documentation: lower case, with dashes.
	Name string
	// Sentence says what happened, without subject, capital or full stop.
	Sentence string
	// Hint says what to do next, unless an error knows better.
	Hint string
}

// explanations is the only table of reasons, ordered by exit code.
var explanations = []Explanation{
	{
		Reason: Unexpected, Name: "unexpected",
		Sentence: "unexpected failure",
		Hint:     "look at the daemon's log (journalctl -u virtswarmd) and try again",
	}, {
		Reason: Usage, Name: "usage",
		Sentence: "wrong usage",
		Hint:     "see virtswarm help, or add `help` to the command",
	}, {
		Reason: SourceMissing, Name: "source-missing",
		Sentence: "the source file does not exist",
		Hint:     "check the path; it must be on the host whose daemon is asked",
	}, {
		Reason: SourceNotRegular, Name: "source-not-regular",
		Sentence: "the source is not a regular file",
		Hint:     "name a file; publish the files of a directory one by one",
	}, {
		Reason: SourceUnreadable, Name: "source-unreadable",
		Sentence: "the source file cannot be read",
		Hint:     "make it readable for the user that runs virtswarmd",
	}, {
		Reason: SourceChanged, Name: "source-changed",
		Sentence: "the source file changed while it was published",
		Hint:     "stop what writes to it, or publish a copy; nothing was published",
	}, {
		Reason: InvalidName, Name: "invalid-name",
		Sentence: "the name is not valid",
		Hint:     "use a relative path of at most 512 bytes without '.', '..', empty parts or control characters",
	}, {
		Reason: NotFound, Name: "not-found",
		Sentence: "no such name or version",
		Hint:     "list the names with: virtswarm ls",
	}, {
		Reason: DestExists, Name: "dest-exists",
		Sentence: "the destination exists",
		Hint:     "choose another destination, or remove it first",
	}, {
		Reason: NoSpace, Name: "no-space",
		Sentence: "no space",
		Hint:     "free space, raise the quota, or remove files with: virtswarm rm",
	}, {
		Reason: BadToken, Name: "bad-token",
		Sentence: "the join token is malformed, expired, used or unknown",
		Hint:     "make a new one on a host of the cluster with: virtswarm token",
	}, {
		Reason: Unreachable, Name: "unreachable",
		Sentence: "the daemon cannot be reached",
		Hint:     "start it (systemctl start virtswarmd), or name its socket with `socket`",
	}, {
		Reason: NoLeader, Name: "no-leader",
		Sentence: "the cluster has no leader",
		Hint:     "bring back hosts until a majority of the voters is up; see: virtswarm status",
	}, {
		Reason: TooFewCopies, Name: "too-few-copies",
		Sentence: "there are fewer copies than asked for",
		Hint:     "add hosts or bring them back: the missing copies are then made without further ado",
	}, {
		Reason: DamagedData, Name: "damaged-data",
		Sentence: "damaged data that could not be healed",
		Hint:     "bring back a host that holds the file, then repeat; replace the disk if it goes on",
	}, {
		Reason: NoHolder, Name: "no-holder",
		Sentence: "no live host holds the data",
		Hint:     "bring back a host that holds it; see: virtswarm show NAME",
	}, {
		Reason: AddressInUse, Name: "address-in-use",
		Sentence: "the address is in use",
		Hint:     "stop what listens there, or choose another address with `listen`",
	}, {
		Reason: NotMember, Name: "not-member",
		Sentence: "not a member of this cluster",
		Hint:     "join with a token of this cluster; a host that has left must join anew",
	}, {
		Reason: DamagedStore, Name: "damaged-store",
		Sentence: "the store is damaged",
		Hint:     "restore the directory, or move it away and start anew: the data comes back from other hosts",
	}, {
		Reason: DamagedLog, Name: "damaged-log",
		Sentence: "the Raft log is damaged",
		Hint:     "move the data directory away, remove the host on another one (virtswarm leave `force`) and join anew",
	}, {
		Reason: InvalidConfig, Name: "invalid-config",
		Sentence: "the configuration is not valid",
		Hint:     "correct what is named; packaging/virtswarm.yaml shows every key",
	}, {
		Reason: HostNameTaken, Name: "host-name-taken",
		Sentence: "the host name is taken",
		Hint:     "choose another name, or remove the old host with: virtswarm leave `force` HOST",
	}, {
		Reason: NoSuchHost, Name: "no-such-host",
		Sentence: "no such host",
		Hint:     "list the hosts with: virtswarm hosts",
	}, {
		Reason: AlreadyRunning, Name: "already-running",
		Sentence: "a daemon runs here already",
		Hint:     "stop the other daemon, or use another `data` directory and `socket`",
	}, {
		Reason: NoSuchGuest, Name: "no-such-guest",
		Sentence: "no such guest, or several of that name",
		Hint:     "list the guests with: virtswarm guests; a UUID names exactly one",
	}, {
		Reason: NoLibvirt, Name: "no-libvirt",
		Sentence: "libvirt cannot do it",
		Hint:     "see that libvirtd runs on the guest's host and lets the daemon in: virsh list",
	}, {
		Reason: NoGuestLink, Name: "no-guest-link",
		Sentence: "the guest link cannot be changed",
		Hint:     "see that the guest runs, on a host with guest links, and that its system knows PCI hot-plugging",
	}, {
		Reason: QuorumAtRisk, Name: "quorum-at-risk",
		Sentence: "the cluster would lose its majority of voters",
		Hint:     "bring back a host that is down, or add one, then repeat; see: virtswarm status",
	}, {
		Reason: NoCluster, Name: "no-cluster",
		Sentence: "this host is of no cluster yet",
		Hint:     "make one with: virtswarm init; or become a member of one with: virtswarm join ADDR TOKEN",
	}, {
		Reason: OldCopy, Name: "old-copy",
		Sentence: "the data directory is not this host's newest",
		Hint:     "remove the host at another one (virtswarm leave `force`), delete raft/ in the directory, and start with `join` and `token`",
	}, {
		Reason: UnsafeRecovery, Name: "unsafe-recovery",
		Sentence: "the recovery is not needed, or would lose what a survivor has",
		Hint:     "look with: virtswarmd recover",
	}, {
		Reason: TooOld, Name: "too-old",
		Sentence: "this virtswarm is too old",
		Hint:     "install the release that the other hosts run; virtswarm hosts shows it. A cluster that was upgraded does not go back",
	}, {
		Reason: MixedVersions, Name: "mixed-versions",
		Sentence: "not all hosts can do this yet",
		Hint:     "upgrade the hosts that are behind, or remove those that are gone for good; see: virtswarm hosts",
	}, {
		Reason: DestUnusable, Name: "dest-unusable",
		Sentence: "the destination cannot be written",
		Hint:     "correct the path; it must be on the host whose daemon is asked, where virtswarmd may make files",
	}, {
		Reason: InUse, Name: "in-use",
		Sentence: "somebody uses it",
		Hint:     "stop what uses it, then repeat",
	}, {
		Reason: NoDescriptors, Name: "no-descriptors",
		Sentence: "no file descriptor is left",
		Hint:     "repeat in a moment; if it comes again, raise the daemon's limit (LimitNOFILE in its unit)",
	}, {
		Reason: DiskError, Name: "disk-error",
		Sentence: "the file system refuses, or the disk fails",
		Hint:     "look at what is named, its mount and its permissions; dmesg tells of a disk that fails",
	}, {
		Reason: TimedOut, Name: "timed-out",
		Sentence: "it took too long",
		Hint:     "repeat it: what was done is not done again; if it takes too long again, see: virtswarm status",
	}, {
		Reason: LimitReached, Name: "limit-reached",
		Sentence: "a limit is reached",
		Hint:     "remove what is not needed any more with: virtswarm rm",
	}, {
		Reason: Interrupted, Name: "interrupted",
		Sentence: "interrupted",
		Hint:     "repeat the command when it suits you: what was done is not done again",
	},
}

// Explanations returns what there is to say about every reason, ordered by exit code.
func Explanations() []Explanation { return slices.Clone(explanations) }

// Explain returns what there is to say about a reason. A reason that it does not know (a newer daemon may send it) is
// explained as Unexpected.
func (r Reason) Explain() Explanation {
	for _, e := range explanations {
		if e.Reason == r {
			return e
		}
	}
	return explanations[0]
}

// ExitCode returns the exit code of a process that fails for this reason.
func (r Reason) ExitCode() int { return int(r.Explain().Reason) }

// String returns the reason's name.
func (r Reason) String() string { return r.Explain().Name }
