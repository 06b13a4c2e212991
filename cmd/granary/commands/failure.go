package commands

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// failure is why a command did not do what it was asked: what happened and where, what is known of it, and what to type
// next. Every error that reaches the user is one.
type failure struct {
	exit int
	// problem is what went wrong and where, in one line.
	problem string
	// code, reason, values, fields and retryAfter are what a node said, if it said it.
	code       string
	reason     string
	values     map[string]string
	fields     []fieldProblem
	retryAfter string
	// next is what to type or to try, without a full stop.
	next  string
	cause error
	// told: another process has said it all.
	told bool
}

// fieldProblem is a field of a request that a node refused.
type fieldProblem struct {
	Field   string `json:"field"`
	Problem string `json:"problem"`
}

func (f *failure) Error() string { return f.problem }

func (f *failure) Unwrap() error { return f.cause }

// failed is a failure of a command that was understood.
func failed(next, format string, args ...any) *failure {
	err := fmt.Errorf(format, args...)
	return &failure{exit: ExitFailed, problem: err.Error(), next: next, cause: err}
}

// usageFailure is a failure of a command that was not understood.
func usageFailure(cmd *cobra.Command, format string, args ...any) *failure {
	f := failed(cmd.CommandPath()+" --help", format, args...)
	f.exit = ExitUsage
	return f
}

// failureJSON is the form of a failure under -o json.
type failureJSON struct {
	Exit       int               `json:"exit"`
	Message    string            `json:"message"`
	Code       string            `json:"code,omitempty"`
	Reason     string            `json:"reason,omitempty"`
	Metadata   map[string]string `json:"metadata,omitempty"`
	Fields     []fieldProblem    `json:"fields,omitempty"`
	RetryAfter string            `json:"retryAfter,omitempty"`
	Next       string            `json:"next,omitempty"`
}

// tell writes a failure to standard error.
func (a *app) tell(f *failure) {
	if f.told {
		return
	}
	if a.format == formatJSON {
		text, err := json.Marshal(map[string]failureJSON{"error": {
			f.exit, f.problem, f.code, f.reason, f.values, f.fields, f.retryAfter, f.next,
		}})
		if err == nil {
			fmt.Fprintf(a.Err, "%s\n", text)
			return
		}
	}
	fmt.Fprint(a.Err, f.text(a.screen.err))
}

// text is the form of a failure for people.
func (f *failure) text(p paint) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", p.red("error:"), plain(f.problem))
	if f.reason != "" {
		fmt.Fprintf(&b, "  reason: %s", plain(f.reason))
		for _, name := range sortedNames(f.values) {
			fmt.Fprintf(&b, " %s=%s", plain(name), plain(f.values[name]))
		}
		b.WriteString("\n")
	}
	for _, field := range f.fields {
		fmt.Fprintf(&b, "  field %s: %s\n", plain(field.Field), plain(field.Problem))
	}
	if f.retryAfter != "" {
		fmt.Fprintf(&b, "  retry after: %s\n", f.retryAfter)
	}
	if f.next != "" {
		fmt.Fprintf(&b, "%s %s\n", p.bold("next:"), f.next)
	}
	return b.String()
}
