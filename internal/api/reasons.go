package api

import (
	"slices"
	"strings"

	"connectrpc.com/connect"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

// Reason says why something failed. Its number is the exit code of the process that reports it.
type Reason = v1.Reason

// The reasons, under names that read well beside other packages' errors.
const (
	Unexpected       = v1.Reason_REASON_UNEXPECTED
	Usage            = v1.Reason_REASON_USAGE
	SourceMissing    = v1.Reason_REASON_SOURCE_MISSING
	SourceNotRegular = v1.Reason_REASON_SOURCE_NOT_REGULAR
	SourceUnreadable = v1.Reason_REASON_SOURCE_UNREADABLE
	SourceChanged    = v1.Reason_REASON_SOURCE_CHANGED
	InvalidName      = v1.Reason_REASON_INVALID_NAME
	NotFound         = v1.Reason_REASON_NOT_FOUND
	DestExists       = v1.Reason_REASON_DEST_EXISTS
	NoSpace          = v1.Reason_REASON_NO_SPACE
	BadToken         = v1.Reason_REASON_BAD_TOKEN
	Unreachable      = v1.Reason_REASON_UNREACHABLE
	NoLeader         = v1.Reason_REASON_NO_LEADER
	TooFewCopies     = v1.Reason_REASON_TOO_FEW_COPIES
	DamagedData      = v1.Reason_REASON_DAMAGED_DATA
	NoHolder         = v1.Reason_REASON_NO_HOLDER
	AddressInUse     = v1.Reason_REASON_ADDRESS_IN_USE
	NotMember        = v1.Reason_REASON_NOT_MEMBER
	DamagedStore     = v1.Reason_REASON_DAMAGED_STORE
	DamagedLog       = v1.Reason_REASON_DAMAGED_LOG
	InvalidConfig    = v1.Reason_REASON_INVALID_CONFIG
	HostNameTaken    = v1.Reason_REASON_HOST_NAME_TAKEN
	NoSuchHost       = v1.Reason_REASON_NO_SUCH_HOST
	AlreadyRunning   = v1.Reason_REASON_ALREADY_RUNNING
	NoSuchGuest      = v1.Reason_REASON_NO_SUCH_GUEST
	NoLibvirt        = v1.Reason_REASON_NO_LIBVIRT
	NoGuestLink      = v1.Reason_REASON_NO_GUEST_LINK
	QuorumAtRisk     = v1.Reason_REASON_QUORUM_AT_RISK
	NoCluster        = v1.Reason_REASON_NO_CLUSTER
	OldCopy          = v1.Reason_REASON_OLD_COPY
	UnsafeRecovery   = v1.Reason_REASON_UNSAFE_RECOVERY
	Interrupted      = v1.Reason_REASON_INTERRUPTED
)

// Explanation is what there is to say about a reason.
type Explanation struct {
	Reason Reason
	// Name is the reason in --json output and in documentation: lower case, with dashes.
	Name string
	// ExitCode is that of a process that fails for this reason.
	ExitCode int
	// Sentence says what happened, without subject, capital or full stop.
	Sentence string
	// Hint says what to do next, unless an error knows better.
	Hint string

	code connect.Code
}

// explanations is the only table of reasons, ordered by exit code.
var explanations = []Explanation{
	{
		Reason: Unexpected, code: connect.CodeInternal,
		Sentence: "unexpected failure",
		Hint:     "look at the daemon's log (journalctl -u virtswarmd) and try again",
	}, {
		Reason: Usage, code: connect.CodeInvalidArgument,
		Sentence: "wrong usage",
		Hint:     "see virtswarm help, or add --help to the command",
	}, {
		Reason: SourceMissing, code: connect.CodeNotFound,
		Sentence: "the source file does not exist",
		Hint:     "check the path; it must be on the host whose daemon is asked",
	}, {
		Reason: SourceNotRegular, code: connect.CodeInvalidArgument,
		Sentence: "the source is not a regular file",
		Hint:     "name a file; publish the files of a directory one by one",
	}, {
		Reason: SourceUnreadable, code: connect.CodePermissionDenied,
		Sentence: "the source file cannot be read",
		Hint:     "make it readable for the user that runs virtswarmd",
	}, {
		Reason: SourceChanged, code: connect.CodeAborted,
		Sentence: "the source file changed while it was published",
		Hint:     "stop what writes to it, or publish a copy; nothing was published",
	}, {
		Reason: InvalidName, code: connect.CodeInvalidArgument,
		Sentence: "the name is not valid",
		Hint:     "use a relative path of at most 512 bytes without '.', '..', empty parts or control characters",
	}, {
		Reason: NotFound, code: connect.CodeNotFound,
		Sentence: "no such name or version",
		Hint:     "list the names with: virtswarm ls",
	}, {
		Reason: DestExists, code: connect.CodeAlreadyExists,
		Sentence: "the destination exists",
		Hint:     "choose another destination, or remove it first",
	}, {
		Reason: NoSpace, code: connect.CodeResourceExhausted,
		Sentence: "no space",
		Hint:     "free space, raise the quota, or remove files with: virtswarm rm",
	}, {
		Reason: BadToken, code: connect.CodeUnauthenticated,
		Sentence: "the join token is malformed, expired, used or unknown",
		Hint:     "make a new one on a host of the cluster with: virtswarm token",
	}, {
		Reason: Unreachable, code: connect.CodeUnavailable,
		Sentence: "the daemon cannot be reached",
		Hint:     "start it (systemctl start virtswarmd), or name its socket with --socket",
	}, {
		Reason: NoLeader, code: connect.CodeUnavailable,
		Sentence: "the cluster has no leader",
		Hint:     "bring back hosts until a majority of the voters is up; see: virtswarm status",
	}, {
		Reason: TooFewCopies, code: connect.CodeFailedPrecondition,
		Sentence: "there are fewer copies than asked for",
		Hint:     "add hosts or bring them back: the missing copies are then made without further ado",
	}, {
		Reason: DamagedData, code: connect.CodeDataLoss,
		Sentence: "damaged data that could not be healed",
		Hint:     "bring back a host that holds the file, then repeat; replace the disk if it goes on",
	}, {
		Reason: NoHolder, code: connect.CodeUnavailable,
		Sentence: "no live host holds the data",
		Hint:     "bring back a host that holds it; see: virtswarm show NAME",
	}, {
		Reason: AddressInUse, code: connect.CodeFailedPrecondition,
		Sentence: "the address is in use",
		Hint:     "stop what listens there, or choose another address with --listen",
	}, {
		Reason: NotMember, code: connect.CodePermissionDenied,
		Sentence: "not a member of this cluster",
		Hint:     "join with a token of this cluster; a host that has left must join anew",
	}, {
		Reason: DamagedStore, code: connect.CodeDataLoss,
		Sentence: "the store is damaged",
		Hint:     "restore the directory, or move it away and start anew: the data comes back from other hosts",
	}, {
		Reason: DamagedLog, code: connect.CodeDataLoss,
		Sentence: "the Raft log is damaged",
		Hint:     "move the data directory away, remove the host on another one (virtswarm leave --force) and join anew",
	}, {
		Reason: InvalidConfig, code: connect.CodeInvalidArgument,
		Sentence: "the configuration is not valid",
		Hint:     "correct what is named; packaging/virtswarm.yaml shows every key",
	}, {
		Reason: HostNameTaken, code: connect.CodeAlreadyExists,
		Sentence: "the host name is taken",
		Hint:     "choose another name, or remove the old host with: virtswarm leave --force HOST",
	}, {
		Reason: NoSuchHost, code: connect.CodeNotFound,
		Sentence: "no such host",
		Hint:     "list the hosts with: virtswarm hosts",
	}, {
		Reason: AlreadyRunning, code: connect.CodeFailedPrecondition,
		Sentence: "a daemon runs here already",
		Hint:     "stop the other daemon, or use another --data directory and --socket",
	}, {
		Reason: NoSuchGuest, code: connect.CodeNotFound,
		Sentence: "no such guest, or several of that name",
		Hint:     "list the guests with: virtswarm guests; a UUID names exactly one",
	}, {
		Reason: NoLibvirt, code: connect.CodeUnavailable,
		Sentence: "libvirt cannot do it",
		Hint:     "see that libvirtd runs on the guest's host and lets the daemon in: virsh list",
	}, {
		Reason: NoGuestLink, code: connect.CodeFailedPrecondition,
		Sentence: "the guest link cannot be changed",
		Hint:     "see that the guest runs, on a host with guest links, and that its system knows PCI hot-plugging",
	}, {
		Reason: QuorumAtRisk, code: connect.CodeFailedPrecondition,
		Sentence: "the cluster would lose its majority of voters",
		Hint:     "bring back a host that is down, or add one, then repeat; see: virtswarm status",
	}, {
		Reason: NoCluster, code: connect.CodeFailedPrecondition,
		Sentence: "this host is of no cluster yet",
		Hint:     "make one with: virtswarm init; or become a member of one with: virtswarm join ADDR TOKEN",
	}, {
		Reason: OldCopy, code: connect.CodeDataLoss,
		Sentence: "the data directory is not this host's newest",
		Hint:     "remove the host at another one (virtswarm leave --force), delete raft/ in the directory, and start with --join and --token",
	}, {
		Reason: UnsafeRecovery, code: connect.CodeFailedPrecondition,
		Sentence: "the recovery is not needed, or would lose what a survivor has",
		Hint:     "look with: virtswarmd recover",
	}, {
		Reason: Interrupted, code: connect.CodeCanceled,
		Sentence: "interrupted",
		Hint:     "repeat the command when it suits you: what was done is not done again",
	},
}

func init() {
	for i := range explanations {
		e := &explanations[i]
		e.ExitCode = int(e.Reason)
		e.Name = strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(e.Reason.String(), "REASON_")), "_", "-")
	}
}

// Explanations returns what there is to say about every reason, ordered by exit code.
func Explanations() []Explanation { return slices.Clone(explanations) }

// Explain returns what there is to say about a reason; about one it does not know (a newer daemon may
// send it) the same as about Unexpected.
func Explain(r Reason) Explanation {
	for _, e := range explanations {
		if e.Reason == r {
			return e
		}
	}
	return explanations[0]
}
