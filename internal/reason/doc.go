// Package reason says why something failed: one table of reasons, each with an exit code, a sentence and a hint, and
// the errors that carry them.
//
// A room declares its sentinel errors with [Sentinel], and so gives each its reason where it is declared; whoever shows
// the error finds it with [Of], however deep it is wrapped. [Wrap] adds what an operator must know: to what it
// happened, and what to do next.
//
// A hint or a cause may name a field of the API's request in back quotes, such as `force`. The command line tools show
// it as their flag, --force: nothing else knows flags.
package reason
