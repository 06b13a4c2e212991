package parcel

import (
	"testing"
	"time"

	"github.com/granary-dev/granary/grains/grainstest"
	"pgregory.net/rapid"

	parcelv1 "example.com/ownkind/parcel/v1"
)

// TestParcel lets the kit look for what would break a kind in a cluster, with random events and with the story in testdata.
func TestParcel(t *testing.T) {
	grainstest.Check(t, grainstest.Suite{Kind: Kind.MustDefine(), Key: "JD014", Generate: generate, Scripts: "testdata"})
}

// generate draws a parcel's way: scans, some late and some bad, and now and then a delivery.
func generate(t *rapid.T) (events []grainstest.Event) {
	at := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	for range rapid.IntRange(0, 30).Draw(t, "events") {
		at = at.Add(time.Duration(rapid.IntRange(-2, 10).Draw(t, "hours")) * time.Hour)
		if rapid.IntRange(0, 9).Draw(t, "what") == 0 {
			events = append(events, grainstest.Event{At: at, Message: &parcelv1.Delivered{To: rapid.SampledFrom([]string{"", "ada", "bob"}).Draw(t, "to")}})
			continue
		}
		events = append(events, grainstest.Event{At: at, Message: &parcelv1.Scanned{
			Place: rapid.SampledFrom([]string{"", "lyon", "köln", "oslo"}).Draw(t, "place"), Grams: rapid.Uint32Range(0, 5000).Draw(t, "grams")}})
	}
	return events
}
