package placement

import (
	"errors"
	"maps"
	"slices"

	"github.com/virtswarm/virtswarm/internal/reason"
)

// Errors of Apply and of the validators. Each is wrapped with what it was about.
var (
	ErrBadCommand      = errors.New("malformed command")
	ErrBadSnapshot     = reason.Sentinel(reason.DamagedData, "damaged catalogue snapshot")
	ErrNotInitialised  = reason.Sentinel(reason.NoLeader, "the cluster is not initialised")
	ErrOtherCluster    = reason.Sentinel(reason.NotMember, "belongs to another cluster")
	ErrInvalidName     = reason.Sentinel(reason.InvalidName, "invalid name")
	ErrInvalidGuests   = reason.Sentinel(reason.Usage, "invalid guest pattern")
	ErrInvalidHost     = reason.Sentinel(reason.InvalidConfig, "invalid host")
	ErrInvalidFile     = reason.Sentinel(reason.Usage, "invalid file")
	ErrInvalidDomain   = reason.Sentinel(reason.Usage, "invalid domain")
	ErrNoFile          = reason.Sentinel(reason.NotFound, "no such file")
	ErrNoContent       = reason.Sentinel(reason.NotFound, "no such content")
	ErrNoHost          = reason.Sentinel(reason.NoSuchHost, "no such host")
	ErrNameTaken       = reason.Sentinel(reason.HostNameTaken, "host name is taken")
	ErrTooFewHosts     = reason.Sentinel(reason.TooFewCopies, "too few hosts for the copies that are wanted")
	ErrLastHost        = reason.Sentinel(reason.QuorumAtRisk, "the last host cannot leave")
	ErrTokenUnknown    = reason.Sentinel(reason.BadToken, "unknown join token")
	ErrTokenUsed       = reason.Sentinel(reason.BadToken, "join token was used already")
	ErrTokenExpired    = reason.Sentinel(reason.BadToken, "join token has expired")
	ErrTooMany         = reason.Sentinel(reason.LimitReached, "catalogue limit reached")
	ErrOutcomeUnknown  = reason.Sentinel(reason.NoLeader, "too old to tell whether it was carried out")
	ErrLaterLife       = reason.Sentinel(reason.OldCopy, "a later start of this host is known")
	ErrHides           = reason.Sentinel(reason.DestExists, "it would hide the newest version")
	ErrNewer           = reason.Sentinel(reason.TooOld, "written by a newer version of virtswarm")
	ErrTooOld          = reason.Sentinel(reason.TooOld, "its virtswarm is too old for the cluster")
	ErrMixedVersions   = reason.Sentinel(reason.MixedVersions, "not all hosts are upgraded")
	ErrAuthority       = reason.Sentinel(reason.Usage, "the certificate authority cannot be changed so")
	ErrContentConflict = reason.Sentinel(reason.DamagedData, "content does not match what the catalogue knows of it")
)

// codes are the names under which the errors travel between hosts. Never reuse one.
var codes = map[string]error{
	"bad_command":      ErrBadCommand,
	"bad_snapshot":     ErrBadSnapshot,
	"not_initialised":  ErrNotInitialised,
	"other_cluster":    ErrOtherCluster,
	"invalid_name":     ErrInvalidName,
	"invalid_guests":   ErrInvalidGuests,
	"invalid_host":     ErrInvalidHost,
	"invalid_file":     ErrInvalidFile,
	"invalid_domain":   ErrInvalidDomain,
	"no_file":          ErrNoFile,
	"no_content":       ErrNoContent,
	"no_host":          ErrNoHost,
	"name_taken":       ErrNameTaken,
	"too_few_hosts":    ErrTooFewHosts,
	"last_host":        ErrLastHost,
	"token_unknown":    ErrTokenUnknown,
	"token_used":       ErrTokenUsed,
	"token_expired":    ErrTokenExpired,
	"too_many":         ErrTooMany,
	"outcome_unknown":  ErrOutcomeUnknown,
	"later_life":       ErrLaterLife,
	"hides":            ErrHides,
	"newer":            ErrNewer,
	"too_old":          ErrTooOld,
	"mixed_versions":   ErrMixedVersions,
	"authority":        ErrAuthority,
	"content_conflict": ErrContentConflict,
}

// codeNames is in order, so that an error has the same code on every host.
var codeNames = slices.Sorted(maps.Keys(codes))

// ErrorCode returns the stable name of the sentinel inside err, so that it can be sent to another host.
func ErrorCode(err error) (string, bool) {
	for _, code := range codeNames {
		if errors.Is(err, codes[code]) {
			return code, true
		}
	}
	return "", false
}

// remoteError is an error that came from another host: its whole text, and the sentinel for errors.Is.
type remoteError struct {
	text     string
	sentinel error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.sentinel }

// ErrorOf is the inverse of ErrorCode: an error with that text for which errors.Is finds the sentinel. An unknown
// code (a newer host's) gives a plain error with the text.
func ErrorOf(code, text string) error {
	if sentinel, ok := codes[code]; ok {
		return &remoteError{text, sentinel}
	}
	return errors.New(text)
}
