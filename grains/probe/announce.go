package probe

import (
	"github.com/granary-dev/granary/grains"
	probev1 "github.com/granary-dev/granary/proto/granary/probe/v1"
)

// valuesStream is where probes announce values.
const valuesStream = "probe.values"

// maxAnnounced is how often a value is published at most.
const maxAnnounced = 100

// announce publishes a value.
func announce(t *grains.Turn, _ *probev1.Probe, e *probev1.Announce) error {
	switch {
	case e.Value == 0:
		return grains.Reject("value is 0")
	case e.Times > maxAnnounced:
		return grains.Rejectf("times is %d; at most %d are taken", e.Times, maxAnnounced)
	}
	for i := range max(e.Times, 1) {
		t.Publish(valuesStream, &probev1.Announced{Value: e.Value, Number: i})
	}
	return nil
}
