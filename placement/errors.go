package placement

import (
	"errors"
	"maps"
	"slices"
)

// Errors of Apply and of the validators. Each is wrapped with what it was about.
var (
	ErrBadCommand      = errors.New("malformed command")
	ErrBadSnapshot     = errors.New("damaged catalogue snapshot")
	ErrNotInitialised  = errors.New("the cluster is not initialised")
	ErrOtherCluster    = errors.New("belongs to another cluster")
	ErrInvalidName     = errors.New("invalid name")
	ErrInvalidGuests   = errors.New("invalid guest pattern")
	ErrInvalidHost     = errors.New("invalid host")
	ErrInvalidFile     = errors.New("invalid file")
	ErrInvalidDomain   = errors.New("invalid domain")
	ErrNoFile          = errors.New("no such file")
	ErrNoContent       = errors.New("no such content")
	ErrNoHost          = errors.New("no such host")
	ErrNameTaken       = errors.New("host name is taken")
	ErrTooFewHosts     = errors.New("too few hosts for the copies that are wanted")
	ErrLastHost        = errors.New("the last host cannot leave")
	ErrTokenUnknown    = errors.New("unknown join token")
	ErrTokenUsed       = errors.New("join token was used already")
	ErrTokenExpired    = errors.New("join token has expired")
	ErrTooMany         = errors.New("catalogue limit reached")
	ErrOutcomeUnknown  = errors.New("too old to tell whether it was carried out")
	ErrLaterLife       = errors.New("a later start of this host is known")
	ErrHides           = errors.New("it would hide the newest version")
	ErrContentConflict = errors.New("content does not match what the catalogue knows of it")
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
