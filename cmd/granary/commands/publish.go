package commands

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/granary-dev/granary/client/cloudevents"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// publish holds the flags of `granary publish`.
type publish struct {
	file      string
	batch     int
	keepGoing bool
	retryFor  time.Duration
}

func (a *app) publishCommand() *cobra.Command {
	t, p := &target{}, publish{}
	cmd := &cobra.Command{
		Use:   "publish [-f FILE]",
		Short: "publish events from a file or from standard input",
		Long: `Publishes events, one a line, as CloudEvents 1.0 in their JSON format:

  {"specversion":"1.0", "id":"tx-1", "source":"/shop", "type":"Charged", "subject":"account/42", "data":{…}}

subject is the grain. type and data are an event of its kind, see: granary kind show KIND. time (RFC 3339) is when it
happened. data_base64 holds the event in protobuf instead of data; other attributes are kept as headers. Whole
numbers beyond 2^53 must be written as strings, as the JSON form of protobuf does.

Events are sent in the order of the lines, a batch at a time, and a batch is sent when the one before has its
outcome. Every event has an id, so nothing counts twice: a batch without an answer is sent again for up to
--retry-for, and after an interruption the whole command can be run again.

It stops at the first line that is no event, and at the end of a batch in which a grain or the node refused one;
with --keep-going it tells of these and goes on. Either way the exit code is then 1.

With -o json: only the final object, with read, published, duplicates, refused, invalid, unanswered, seconds,
eventsPerSecond, problems ([{"line", "grain", "id", "code", "reason", "message"}]) and problemsLeftOut (all
problems count, but only 1,000 are listed). read is the sum of the five after it.`,
		Example: `  granary publish -f events.jsonl
  zcat events.jsonl.gz | granary publish --keep-going
  echo '{"specversion":"1.0","id":"1","source":"/me","type":"Charged","subject":"account/42","data":{"transactionId":"1","merchant":"7","amountCents":"1250"}}' | granary publish`,
		Args: func(cmd *cobra.Command, args []string) error {
			err := noArguments(cmd, args)
			var f *failure
			if errors.As(err, &f) {
				f.next = "did you mean: granary publish -f " + shellQuote(args[0])
			}
			return err
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if p.batch < 1 || p.batch > maxPage {
				return usageFailure(cmd, "%s: --batch must be from 1 to %d", cmd.CommandPath(), maxPage)
			}
			return a.publish(cmd.Context(), t, p)
		},
	}
	t.addTo(cmd)
	cmd.Flags().StringVarP(&p.file, "file", "f", "-", "`FILE` to read; - is standard input")
	cmd.Flags().IntVar(&p.batch, "batch", 500, "at most this `number` of events in a call, 1 to 1000")
	cmd.Flags().BoolVar(&p.keepGoing, "keep-going", false, "do not stop at events that are refused")
	cmd.Flags().DurationVar(&p.retryFor, "retry-for", 30*time.Second, "how long to try again when the node does not take a batch")
	return cmd
}

// errStopped ends a run whose reason was told as a problem of an event.
var errStopped = errors.New("stopped")

func (a *app) publish(ctx context.Context, t *target, p publish) error {
	in, size, err := a.openEvents(p.file)
	if err != nil {
		return err
	}
	defer in.Close()
	conn, err := t.dial()
	if err != nil {
		return err
	}
	defer conn.Close()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tally := newTally(a, p.file, size)
	read := &countingReader{Reader: in}
	sender := &eventSender{
		conn: conn, client: granaryv1.NewEventServiceClient(conn), tally: tally, publish: p,
		events: readEvents(ctx, read, 2*p.batch), read: read,
	}
	err = sender.run(ctx)
	if told := tally.finish(); told != nil {
		return told
	}
	if err != nil && !errors.Is(err, errStopped) {
		return conn.publishFailure(tally, err)
	}
	return tally.failure()
}

// openEvents opens the input. size is 0 when it is not known.
func (a *app) openEvents(file string) (in io.ReadCloser, size int64, err error) {
	if file == "-" {
		if a.screen.inTerminal {
			fmt.Fprintln(a.Err, "reading events from the terminal, one a line; Ctrl-D ends")
		}
		return io.NopCloser(a.In), 0, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, failed("granary publish -f FILE, with a file that can be read", "publish: %w", err)
	}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		size = info.Size()
	}
	return f, size, nil
}

// publishFailure is the failure of a run that could not go on.
func (n *nodeConn) publishFailure(t *tally, err error) *failure {
	f := n.callFailure("publish", err)
	if t.report.Published+t.report.Duplicates > 0 {
		f.next = "run the same command again: what was published is known by its id and does not count twice"
		if f.exit == ExitUnreachable {
			f.next = "start the node again (granary dev --data-dir DIR), then " + f.next
		}
	}
	return f
}

// item is a line of the input: an event, or what is wrong with it, or the end of all (io.EOF or a failing read).
type item struct {
	line  int
	event *granaryv1.Event
	err   error
}

// readEvents reads ahead, so that lines are decoded while a batch is under way. The goroutine ends with the input or
// with ctx. While it waits for input it cannot be stopped; then it ends with the process.
func readEvents(ctx context.Context, in io.Reader, ahead int) <-chan item {
	items := make(chan item, ahead)
	go func() {
		defer close(items)
		r := cloudevents.NewReader(in)
		for {
			event, err := r.Next()
			select {
			case items <- item{r.Line(), event, err}:
			case <-ctx.Done():
				return
			}
			var bad *cloudevents.Error
			if err != nil && !errors.As(err, &bad) {
				return
			}
		}
	}()
	return items
}
