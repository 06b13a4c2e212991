// Package window counts and sums over the last hours of event time, exactly and in bounded space, and keeps the latest
// few events.
//
// Here live [Series], a sparse row of hour buckets and the sums of some trailing [Span]s over it, laid out as parallel
// slices and plain numbers so that they can be the fields of a grain's state; and [Place] and [Put], which keep parallel
// lists of the latest events in the order of their times. Here never live clocks, messages or floats: standard library
// only, integers only.
//
// # What "the last 7 days" means
//
// Event time is cut into the hours of UTC, counted since 1970 ([Hour]). The newest hour is the hour of the newest event
// that the series was told of; it never goes back, and no wall clock moves it. The last 7 days are the newest hour and
// the 167 hours before it: an event counts if and only if
//
//	newest − 168 < hour(event) ≤ newest
//
// whatever its minute, and whenever it arrived. The same with 24 for a day and 720 for 30 days. A span that skips the
// last s hours is the same, counted back from newest − s. An event that arrives late goes into the bucket of its own
// hour; one that is older than every span leaves no trace here, its owner's totals excepted.
//
// Invariant: each span's figures equal a recount by that rule of all events ever added and not removed, in whatever order
// they came.
package window

import (
	"fmt"
	"math"
	"slices"
)

// Lengths of spans, in hours.
const (
	Day   = 24
	Week  = 7 * Day
	Month = 30 * Day
)

// MaxCents is the largest amount that one event may have, in cents: 10^12, ten billion of the currency.
const MaxCents = 1_000_000_000_000

// CheckCents tells what is wrong with the amount of an event, or nil. total is the sum of all amounts that its owner took
// so far: as long as that fits an int64, so do all sums here, which are parts of it.
func CheckCents(cents, total int64) error {
	switch {
	case cents < 0:
		return fmt.Errorf("the amount is %d cents; it must not be negative", cents)
	case cents > MaxCents:
		return fmt.Errorf("the amount is %d cents; at most %d are taken", cents, int64(MaxCents))
	case cents > math.MaxInt64-total:
		return fmt.Errorf("the total of %d cents cannot take %d more", total, cents)
	}
	return nil
}

const microsPerHour = 3_600_000_000

// Hour is the number of the hour, since 1970, of a time in Unix microseconds. The time must not be before 1970.
func Hour(unixMicros int64) uint32 { return uint32(unixMicros / microsPerHour) }

// slack is for how many hours a bucket that no span can reach is left where it is. Dropping moves all other buckets, which
// would cost a busy grain more than the rest of its turn if it were done each hour.
const slack = 24

// MaxSpans is how many spans a series can have.
const MaxSpans = 6

// Span is one trailing stretch of hours and what it holds: the hours h with
// newest − Skip − Length < h ≤ newest − Skip.
type Span struct {
	// Skip is how many of the newest hours the span leaves out.
	Skip uint32
	// Length in hours.
	Length uint32
	// Count of the events in the span.
	Count *uint64
	// Cents is their sum; nil if it is not wanted.
	Cents *int64
}

// Series is a view of buckets and spans that live elsewhere, in a grain's state: it is made for one turn, it changes what
// it points to, and it holds nothing itself. All that it points to is zero at first.
//
// The owner keeps the newest hour and gives it to each call. When that moves, [Series.Advance] must be told before
// anything is added.
type Series struct {
	// Hours that have a bucket, ascending: those in reach of a span (Skip + Length), and up to 24 older ones on their way
	// out.
	Hours *[]uint32
	// Counts of the buckets: at least 1 each.
	Counts *[]uint64
	// Cents of the buckets; nil for a series that only counts.
	Cents *[]int64
	// Spans to keep; those behind the first without a Count are not looked at. A series without Cents has spans without.
	Spans [MaxSpans]Span
}

// Advance moves the newest hour. Buckets that no span can reach any more are dropped, in batches. Going back does
// nothing.
func (s *Series) Advance(from, to uint32) {
	if to <= from || len(*s.Hours) == 0 {
		return
	}
	entering := -1 // the first bucket that enters spans which skip as much as the one before
	for i := range s.Spans {
		span := &s.Spans[i]
		if span.Count == nil {
			break
		}
		// What both enters and leaves in one jump is added and taken away again. Nothing enters a span that skips nothing:
		// there is no bucket above the newest hour yet.
		if skip := int64(span.Skip); skip > 0 {
			if entering < 0 || s.Spans[i-1].Skip != span.Skip {
				entering = after(*s.Hours, int64(from)-skip)
			}
			s.shift(span, entering, int64(to)-skip, 1)
		}
		edge := int64(span.Skip) + int64(span.Length)
		s.shift(span, after(*s.Hours, int64(from)-edge), int64(to)-edge, -1)
	}
	if edge := int64(to) - s.reach(); int64((*s.Hours)[0]) <= edge-slack {
		s.drop(0, after(*s.Hours, edge))
	}
}

// drop forgets the buckets i to j−1.
func (s *Series) drop(i, j int) {
	if i == j {
		return
	}
	*s.Hours = slices.Delete(*s.Hours, i, j)
	*s.Counts = slices.Delete(*s.Counts, i, j)
	if s.Cents != nil {
		*s.Cents = slices.Delete(*s.Cents, i, j)
	}
}

// shift adds the buckets from i on, up to the hour high, to the span; or takes them away if sign is −1.
func (s *Series) shift(span *Span, i int, high, sign int64) {
	hours := *s.Hours
	for ; i < len(hours) && int64(hours[i]) <= high; i++ {
		*span.Count += uint64(sign) * (*s.Counts)[i] // modulo 2^64, so −1 takes away
		if span.Cents != nil {
			*span.Cents += sign * (*s.Cents)[i]
		}
	}
}

// Add counts one event of an hour that is not above newest. It reports false, and does nothing, if the event is older
// than every span.
func (s *Series) Add(newest, hour uint32, cents int64) bool {
	if hour > newest {
		panic("window: Advance comes before Add")
	}
	if int64(hour) <= int64(newest)-s.reach() {
		return false
	}
	i := after(*s.Hours, int64(hour)) - 1
	if i < 0 || (*s.Hours)[i] != hour {
		i++
		*s.Hours = slices.Insert(*s.Hours, i, hour)
		*s.Counts = slices.Insert(*s.Counts, i, 0)
		if s.Cents != nil {
			*s.Cents = slices.Insert(*s.Cents, i, 0)
		}
	}
	s.change(i, newest, 1, cents)
	return true
}

// Remove takes back one event that was added. It reports false, and does nothing, if the event is older than every span,
// or its hour has none.
func (s *Series) Remove(newest, hour uint32, cents int64) bool {
	i := after(*s.Hours, int64(hour)) - 1
	if i < 0 || (*s.Hours)[i] != hour || int64(hour) <= int64(newest)-s.reach() {
		return false
	}
	s.change(i, newest, -1, cents)
	if (*s.Counts)[i] == 0 {
		s.drop(i, i+1)
	}
	return true
}

// change adds one event to bucket i and to the spans it lies in, or takes one away if sign is −1.
func (s *Series) change(i int, newest uint32, sign, cents int64) {
	(*s.Counts)[i] += uint64(sign)
	if s.Cents != nil {
		(*s.Cents)[i] += sign * cents
	}
	age := newest - (*s.Hours)[i]
	for k := range s.Spans {
		span := &s.Spans[k]
		if span.Count == nil {
			break
		}
		if age < span.Skip || age-span.Skip >= span.Length {
			continue
		}
		*span.Count += uint64(sign)
		if span.Cents != nil {
			*span.Cents += sign * cents
		}
	}
}

// reach is how many hours back the longest span goes.
func (s *Series) reach() int64 {
	var reach int64
	for i := range s.Spans {
		if s.Spans[i].Count == nil {
			break
		}
		reach = max(reach, int64(s.Spans[i].Skip)+int64(s.Spans[i].Length))
	}
	return reach
}

// after is the index of the first hour above h. Most look-ups are for the last bucket, so it is tried first.
func after(hours []uint32, h int64) int {
	if n := len(hours); n == 0 || int64(hours[n-1]) <= h {
		return n
	}
	return search(hours, h)
}

// search is after for an h below the last hour. Hours are distinct and ascending: so many hours away from an end of the
// list, at most so many buckets away. Where every hour has its bucket, that leaves one.
func search(hours []uint32, h int64) int {
	first, n := int64(hours[0]), int64(len(hours))
	if first > h {
		return 0
	}
	low := max(1, n-(int64(hours[n-1])-h))
	high := min(n, h-first+1)
	for low < high {
		mid := (low + high) / 2
		if int64(hours[mid]) > h {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return int(low)
}
