//go:build linux || darwin

package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	probev1 "github.com/granary-dev/granary/proto/granary/probe/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// fault is something that goes wrong and is well again when do returns. What the node should not have done meanwhile is a
// violation; an error is a fault that could not be made.
type fault struct {
	name         string
	disk, strace bool // what it needs
	do           func(ctx context.Context, r *round, conn grpc.ClientConnInterface) error
}

// errNothing is returned by a fault that had no occasion to go wrong. It does not count as one.
var errNothing = errors.New("nothing went wrong")

// happen lets a fault happen and counts it, if it did.
func (r *round) happen(ctx context.Context, f fault, conn grpc.ClientConnInterface) error {
	switch err := f.do(ctx, r, conn); {
	case errors.Is(err, errNothing):
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", f.name, err)
	}
	r.report.Faults[f.name]++
	return nil
}

var faults = []fault{
	{name: "kill -9", do: killed},
	{name: "clean restart", do: restarted},
	{name: "process stopped", do: stopped},
	{name: "connections cut", do: cut},
	{name: "disk at its reserve", disk: true, do: reserve},
	{name: "disk full", disk: true, do: full},
	{name: "sync failed", strace: true, do: syncFailed},
}

func killed(ctx context.Context, r *round, _ grpc.ClientConnInterface) error {
	r.note("kill -9")
	if err := r.node.kill(); err != nil {
		return err
	}
	return r.again(ctx)
}

// again starts the node after a crash. That it does not come back is a violation, and the end of the run.
func (r *round) again(ctx context.Context) error {
	start := time.Now()
	if err := r.node.start(ctx, nil); err != nil {
		r.violated("the node does not come back: %v", err)
		return nil
	}
	r.note("the node serves again after %v", time.Since(start).Round(time.Millisecond))
	return nil
}

func restarted(ctx context.Context, r *round, _ grpc.ClientConnInterface) error {
	r.note("SIGTERM")
	if err := r.node.stop(ctx); err != nil {
		r.violated("the node does not stop cleanly: %v", err)
	}
	return r.again(ctx)
}

func stopped(ctx context.Context, r *round, _ grpc.ClientConnInterface) error {
	d := r.between(200*time.Millisecond, 4*time.Second)
	r.note("SIGSTOP for %v", d.Round(time.Millisecond))
	if err := r.node.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	sleep(ctx, d)
	return r.node.cmd.Process.Signal(syscall.SIGCONT)
}

func cut(_ context.Context, r *round, _ grpc.ClientConnInterface) error {
	r.note("%d connections are cut", r.wires.cut())
	return nil
}

const (
	// reserveBytes is less than what a node keeps free.
	reserveBytes = 200 << 20
	// noticeTime is how long a node may take to see that its disk is full, or that there is room again.
	noticeTime = 5 * time.Second
)

// reserve leaves the disk less than its reserve: events must be refused so that clients try again, reads must go on, and
// with room again so must events.
func reserve(ctx context.Context, r *round, conn grpc.ClientConnInterface) error {
	r.note("the disk is down to less than its reserve")
	if err := r.disk.leave(ctx, reserveBytes); err != nil {
		return err
	}
	refused := r.waitFor(ctx, conn, func(reason string, retry bool) bool {
		if reason == diskFull && !retry {
			r.violated("a full disk refuses an event without saying when to try again")
		}
		return reason == diskFull
	})
	if !refused {
		r.violated("the disk is down to %d MiB, and after %v events are not refused", reserveBytes>>20, noticeTime)
	}
	for _, stale := range []bool{false, true} {
		call, cancel := context.WithTimeout(ctx, noticeTime)
		_, err := granaryv1.NewGrainServiceClient(conn).Get(call, &granaryv1.GetRequest{Grain: r.own(), Stale: stale})
		cancel()
		if err != nil {
			r.violated("the disk is full, and a read is refused: %v", err)
		}
	}
	sleep(ctx, r.between(0, time.Second))
	if err := r.disk.room(ctx); err != nil {
		return err
	}
	r.note("the disk has room again")
	if !r.waitFor(ctx, conn, func(reason string, _ bool) bool { return reason == "" }) {
		r.violated("the disk has room again, and after %v events are still not taken", noticeTime)
	}
	return nil
}

const diskFull = "DISK_FULL"

// own is the grain that faults try things with. It is not the crowd's.
func (r *round) own() string { return fmt.Sprintf("probe/chaos-%d", r.number+1) }

// waitFor publishes events until the answer is the one that is waited for; false if it does not come in time. The answer
// is the reason of the refusal, empty for none, and whether it said when to try again.
func (r *round) waitFor(ctx context.Context, conn grpc.ClientConnInterface, answer func(reason string, retry bool) bool) bool {
	for deadline := time.Now().Add(noticeTime); time.Now().Before(deadline); {
		r.tried++
		payload, err := (&probev1.Append{Value: uint64(r.tried)}).MarshalVT()
		if err != nil {
			return false
		}
		call, cancel := context.WithTimeout(ctx, noticeTime)
		res, err := granaryv1.NewEventServiceClient(conn).Publish(call, &granaryv1.PublishRequest{Events: []*granaryv1.Event{{
			Grain: r.own(), Type: "Append", Id: fmt.Sprint(r.tried), Source: "/chaos", Payload: &granaryv1.Event_Protobuf{Protobuf: payload},
		}}})
		cancel()
		st := status.Convert(err)
		if err == nil {
			st = status.FromProto(res.GetResults()[0].GetStatus())
		}
		reason, retry := st.Code().String(), false
		if st.Code() == 0 {
			reason = ""
		}
		for _, d := range st.Details() {
			switch d := d.(type) {
			case *errdetails.ErrorInfo:
				reason = d.GetReason()
			case *errdetails.RetryInfo:
				retry = d.GetRetryDelay().AsDuration() > 0
			}
		}
		if answer(reason, retry) {
			return true
		}
		sleep(ctx, 50*time.Millisecond)
	}
	return false
}

// full takes the last byte, faster than the node can look. It may refuse or end by itself, and with room again all must
// be as it was.
func full(ctx context.Context, r *round, _ grpc.ClientConnInterface) error {
	free := r.rnd.Int64N(2 << 20)
	r.note("%d KiB of the disk are left", free>>10)
	if err := r.disk.leave(ctx, free); err != nil {
		return err
	}
	if r.node.ends(r.between(500*time.Millisecond, 2*time.Second)) {
		_, how := r.node.hasEnded()
		r.note("the node ended by itself: %.400s", how)
		if r.rnd.IntN(2) == 0 { // without room it may wait or end again; it must not do harm
			if err := r.node.launch(nil); err != nil {
				return err
			}
			r.note("started again on the full disk; it ended: %v", r.node.ends(r.between(500*time.Millisecond, 2*time.Second)))
		}
	}
	if err := r.disk.room(ctx); err != nil {
		return err
	}
	r.note("the disk has room again")
	if r.node.ends(200 * time.Millisecond) { // it may have met the end of the disk just before
		return r.again(ctx)
	}
	if err := r.node.serves(ctx); err != nil {
		r.violated("the disk has room again, and the node: %v", err)
	}
	return nil
}

// injected is how strace marks what it made fail.
const injected = "(INJECTED)"

// failingSync is strace in front of a program of which, in each thread, the nth sync fails.
func failingSync(log string, n int) []string {
	return []string{"strace", "-D", "-f", "--seccomp-bpf", "-qq", "-y", "-o", log,
		"-e", "trace=fsync,fdatasync", "-e", fmt.Sprintf("inject=fsync,fdatasync:error=EIO:when=%d", n)}
}

// call is a line of strace: the thread, and what it calls, or that a call it began comes to its end.
var call = regexp.MustCompile(`^(\d+) +(?:(f(?:data)?sync\(.*)|<\.\.\. \w+ resumed>(.*))`)

// failedSyncs are the calls that strace made fail.
func failedSyncs(log string) (failed []string) {
	begun := map[string]string{} // by thread
	for line := range strings.Lines(log) {
		m := call.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		if m[2] != "" {
			begun[m[1]] = m[2]
		} else {
			begun[m[1]] += m[3]
		}
		if strings.HasSuffix(begun[m[1]], injected) {
			failed = append(failed, begun[m[1]])
		}
	}
	return failed
}

// ofJournal are failed syncs of what acknowledgements rest on.
func ofJournal(failed []string) (journal []string) {
	for _, f := range failed {
		if strings.Contains(f, ".log>") {
			journal = append(journal, f)
		}
	}
	return journal
}

// syncFailed starts the node where the disk says at some sync that it failed. The node must end by itself. A node that
// does not come to that sync in time has met no fault.
func syncFailed(ctx context.Context, r *round, _ grpc.ClientConnInterface) error {
	n := 1 + r.rnd.IntN(60)
	r.note("kill -9; from now on the disk fails the sync %d of a thread", n)
	if err := errors.Join(r.node.kill(), os.RemoveAll(r.node.syncs)); err != nil {
		return err
	}
	err := r.node.start(ctx, failingSync(r.node.syncs, n))
	ended := r.node.ends(5 * time.Second)
	text, readErr := os.ReadFile(r.node.syncs)
	if readErr != nil {
		return readErr
	}
	_, how := r.node.hasEnded()
	happened := r.judgeSyncs(failedSyncs(string(text)), ended, fmt.Sprintf("%v %s", err, how))
	if err := r.node.kill(); err != nil {
		return err
	}
	if err := r.again(ctx); err != nil {
		return err
	}
	return happened
}

// judgeSyncs holds what the node did to the syncs that failed; how is how it ended, if it did. Without any it is
// [errNothing].
func (r *round) judgeSyncs(failed []string, ended bool, how string) error {
	switch journal := ofJournal(failed); {
	case ended && len(failed) == 0:
		r.violated("the node ended although no sync failed: %s", how)
	case ended:
		r.note("%s: the node ended by itself: %.300s", failed[0], how)
		if r.node.failed == nil {
			r.violated("a sync failed, and the node ended with exit code 0")
		}
	case len(journal) > 0:
		r.violated("a sync of the journal failed, and the node goes on: %s", journal[0])
	default:
		r.note("no sync of the journal failed, %d others", len(failed))
	}
	if len(failed) == 0 {
		return errNothing
	}
	return nil
}
