package commands

import (
	"fmt"
	"slices"
	"time"

	"github.com/schollz/progressbar/v3"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/granary-dev/granary/client/cloudevents"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// publishJSON is the final word of `granary publish` under -o json.
type publishJSON struct {
	Read            int64         `json:"read"`
	Published       int64         `json:"published"`
	Duplicates      int64         `json:"duplicates"`
	Refused         int64         `json:"refused"`
	Invalid         int64         `json:"invalid"`
	Unanswered      int64         `json:"unanswered"`
	Seconds         float64       `json:"seconds"`
	EventsPerSecond float64       `json:"eventsPerSecond"`
	Problems        []problemJSON `json:"problems"`
	ProblemsLeftOut int64         `json:"problemsLeftOut"`
}

// problemJSON is an event that was not published.
type problemJSON struct {
	Line    int    `json:"line"`
	Grain   string `json:"grain,omitempty"`
	ID      string `json:"id,omitempty"`
	Code    string `json:"code"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message"`
}

// tally counts what became of the events and shows how far it is.
//
// Invariant: read = published + duplicates + refused + invalid + unanswered.
type tally struct {
	app    *app
	report publishJSON
	began  time.Time
	bar    *progressbar.ProgressBar
	// shown is when the progress was last told without a bar.
	shown time.Time
	// listed is how many duplicates were named.
	listed int
	// answered is whether the node ever answered.
	answered bool
	// refusal is why events were sent again.
	refusal *spb.Status
}

// newTally begins a tally. size is the length of the input in bytes, 0 if it is not known.
func newTally(a *app, file string, size int64) *tally {
	now := time.Now()
	t := &tally{app: a, began: now, shown: now, report: publishJSON{Problems: []problemJSON{}}}
	if a.screen.errTerminal && a.format != formatJSON && !(file == "-" && a.screen.inTerminal) {
		if size == 0 {
			size = -1
		}
		t.bar = progressbar.NewOptions64(size,
			progressbar.OptionSetWriter(a.Err), progressbar.OptionSetDescription("publishing"),
			progressbar.OptionShowBytes(true), progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionSetWidth(30), progressbar.OptionClearOnFinish(), progressbar.OptionEnableColorCodes(false),
			progressbar.OptionSetPredictTime(size > 0))
	}
	return t
}

// sending notes that events are under way.
func (t *tally) sending(n int) {
	t.report.Read += int64(n)
	t.report.Unanswered += int64(n)
}

// outcome notes what became of an event.
func (t *tally) outcome(i item, r *granaryv1.Result) {
	t.answered = true
	t.report.Unanswered--
	switch {
	case r.GetStatus().GetCode() != 0:
		t.report.Refused++
		f := statusFailure(r.GetStatus())
		t.problem(problemJSON{i.line, i.event.GetGrain(), i.event.GetId(), f.code, f.reason, f.problem})
	case r.GetDuplicate():
		t.report.Duplicates++
		t.duplicate(i)
	default:
		t.report.Published++
	}
}

// invalid notes a line that is no event.
func (t *tally) invalid(line int, err *cloudevents.Error) {
	t.report.Read++
	t.report.Invalid++
	message := err.Problem
	if err.Field != "" {
		message = err.Field + ": " + message
	}
	t.problem(problemJSON{Line: line, Code: codeName(int32(codes.InvalidArgument)), Reason: "NOT_A_CLOUDEVENT", Message: message})
}

// problem keeps and tells of an event that was not published.
func (t *tally) problem(p problemJSON) {
	const most = 1000
	if len(t.report.Problems) >= most {
		t.report.ProblemsLeftOut++
		return
	}
	t.report.Problems = append(t.report.Problems, p)
	text := fmt.Sprintf("line %d: ", p.Line)
	if p.Grain != "" {
		text += fmt.Sprintf("%s id %s: ", p.Grain, p.ID)
	}
	if text += p.Code; p.Reason != "" {
		text += " " + p.Reason
	}
	t.tell(text + ": " + p.Message)
}

// duplicate names the first few events that had been published before; of a file that is published again all are.
func (t *tally) duplicate(i item) {
	const most = 10
	switch t.listed++; {
	case t.listed <= most:
		t.tell(fmt.Sprintf("line %d: %s id %s: published before", i.line, i.event.GetGrain(), i.event.GetId()))
	case t.listed == most+1:
		t.tell("further duplicates are only counted")
	}
}

// tell writes a line to standard error, above the progress.
func (t *tally) tell(text string) {
	if t.app.format == formatJSON {
		return
	}
	if t.bar != nil {
		_ = t.bar.Clear() // only what it looks like would suffer
	}
	fmt.Fprintln(t.app.Err, plain(text))
}

func (t *tally) hasProblem() bool { return t.report.Refused+t.report.Invalid > 0 }

// lastRefusal is the error of a run that gave up on events the node keeps refusing for now.
func (t *tally) lastRefusal(left int) error {
	st := status.FromProto(t.refusal)
	f := statusFailure(t.refusal)
	f.problem = fmt.Sprintf("publish: the node did not take %s: %s: %s", several(left, "event"), f.code, st.Message())
	return f
}

// progress shows how far it is, where bytes of the input have been read.
func (t *tally) progress(bytes int64) {
	const pause = 5 * time.Second
	if t.bar != nil {
		t.bar.Describe(fmt.Sprintf("%s, %s/s", several(t.done(), "event"), count(t.rate())))
		_ = t.bar.Set64(bytes) // as above
		return
	}
	if t.app.format == formatJSON || time.Since(t.shown) < pause {
		return
	}
	t.shown = time.Now()
	fmt.Fprintf(t.app.Err, "%s, %s/s\n", several(t.done(), "event"), count(t.rate()))
}

// done is the number of events with an outcome.
func (t *tally) done() int64 { return t.report.Read - t.report.Unanswered }

func (t *tally) rate() int64 {
	return int64(float64(t.report.Published+t.report.Duplicates) / max(time.Since(t.began).Seconds(), 1e-3))
}

// finish prints the final word.
func (t *tally) finish() error {
	if t.bar != nil {
		_ = t.bar.Finish() // as above
	}
	r := &t.report
	r.Seconds = time.Since(t.began).Seconds()
	r.EventsPerSecond = float64(t.rate())
	if t.app.format == formatJSON {
		return t.app.printJSON(r)
	}
	text := fmt.Sprintf("%s: %s published", several(r.Read, "event"), count(r.Published))
	for _, part := range []struct {
		n    int64
		what string
	}{
		{r.Duplicates, "published before"}, {r.Refused, "refused"}, {r.Invalid, "invalid"}, {r.Unanswered, "without an answer"},
	} {
		if part.n > 0 {
			text += fmt.Sprintf(", %s %s", count(part.n), part.what)
		}
	}
	_, err := fmt.Fprintf(t.app.Out, "%s (%.1f s, %s/s)\n", text, r.Seconds, count(t.rate()))
	return err
}

// failure is nil when every event was published.
func (t *tally) failure() error {
	if !t.hasProblem() {
		return nil
	}
	r := t.report
	f := failed("", "publish: %s not published", several(r.Refused+r.Invalid, "event"))
	f.next = "correct what the lines above name and publish again: what was published does not count twice"
	isDead := func(p problemJSON) bool { return p.Reason == deadLettered }
	switch hint := reasonHints[deadLettered]; {
	case !slices.ContainsFunc(r.Problems, isDead):
	case slices.ContainsFunc(r.Problems, func(p problemJSON) bool { return !isDead(p) }):
		f.next += "; those with " + deadLettered + " are kept: " + hint
	default:
		f.next = hint
	}
	if t.app.format == formatJSON {
		f.next = "see problems in the output"
	}
	return f
}
