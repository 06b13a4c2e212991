package session

import (
	"cmp"
	"slices"

	spb "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/gateway/intake"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// result is the outcome of a batch all of whose parts are done. It keeps nothing of the group.
func result(number uint64, g *intake.Group, bySequence bool) *granaryv1.BatchResult {
	out := &granaryv1.BatchResult{Batch: number, Events: uint32(g.Len())}
	for _, p := range g.Parts {
		if p.Refused {
			continue
		}
		results := p.Results()
		for i := range results {
			r := &results[i]
			if r.Duplicate {
				out.Duplicates++
			}
			if r.Outcome != actors.Folded {
				out.Exceptions = append(out.Exceptions, &granaryv1.BatchException{
					Index: uint32(p.Index[i]), Result: answer.Result(r, bySequence),
				})
			}
		}
	}
	// The events of a part have one refusal between them, and so one status.
	var last *answer.Refusal
	var shared *spb.Status
	for _, r := range g.Refused {
		status := shared
		if !r.Whole {
			status = r.Answer().Proto()
		} else if r.Refusal != last {
			last, shared = r.Refusal, r.Refusal.Proto()
			status = shared
		}
		out.Exceptions = append(out.Exceptions, &granaryv1.BatchException{
			Index: uint32(r.Index), Result: &granaryv1.Result{Status: status, Deduplicated: r.Deduplicated},
		})
	}
	slices.SortFunc(out.Exceptions, func(a, b *granaryv1.BatchException) int { return cmp.Compare(a.Index, b.Index) })
	return out
}
