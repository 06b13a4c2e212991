// Package slots remembers, through the death of the process, which turns were running when it died: an event whose turn
// overflows the stack or eats all memory takes the process with it, and would do so again each time it comes.
//
// Here live the file, its bytes, and the count of how often a turn was there when the process died. What follows from a
// count is for package node; here never live shards, events or the journal.
//
// Invariant: what stands in the file can cost a turn at most, never an event: a file that is lost, foreign or torn is as
// good as an empty one.
//
// # The file
//
// It is called "turns", lies in the data folder and is mapped into memory: to note a turn is a few stores, and no call of
// the system. So it outlives the process and not the machine: nothing is synced, and after a power cut it may be anything.
// It belongs to one machine and is not part of the journal. Numbers are little-endian:
//
//	0          header    128 bytes: "granary turns 1\n", uint32 number of shards, zeros
//	128        slots     128 bytes a shard, shard 1 first
//	…          deaths    64 of 128 bytes
//
// A slot, and in brackets what a death has there instead:
//
//	0   uint64  odd while a turn runs; each begin and each end adds one     [deaths counted, 0: free]
//	8   uint64  identity of the turn's event
//	16  uint64  identity XOR 0x9e3779b97f4a7c15: tells what was written here from what was not
//	24  uint32  0                                                          [shard]
//	28  uint8   bytes of the grain's text; uint8 bytes of the event's; uint16 0
//	32  56 B    KIND/KEY, its beginning
//	88  32 B    name of the event, its end
//	120 int64   0                                                          [last death, Unix seconds]
package slots

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

const (
	name      = "turns"
	magic     = "granary turns 1\n"
	size      = 128
	deaths    = 64
	scramble  = 0x9e3779b97f4a7c15
	grainText = 56
	eventText = 32
	// memory is how long a death is remembered: two that lie further apart have hardly the same cause.
	memory = 24 * time.Hour
)

// slot is how a slot or a death lies in memory; see the package documentation.
type slot struct {
	turn            atomic.Uint64
	identity, check uint64
	shard           uint32
	grainN, eventN  uint8
	_               uint16
	grain           [grainText]byte
	event           [eventText]byte
	time            int64
}

var _ [size]byte = [unsafe.Sizeof(slot{})]byte{}

// File is the file of one data folder. It belongs to one process at a time, whose lock is that of the store.
type File struct {
	data   []byte // mapped
	all    []slot // behind the header: shards, then deaths
	shards int
	mu     sync.Mutex // of the deaths
}

// Death is an event that was in a turn when the process died.
type Death struct {
	// Identity of the event, and the shard it was in.
	Identity uint64
	Shard    uint64
	// Grain and Event as text that may be cut.
	Grain, Event string
	// Count of deaths within a day of each other, and the time of the last.
	Count uint64
	Last  time.Time
}

// Open maps the file of a data folder for a number of shards, and makes it if need be. It returns the deaths that the last
// process left, counted. The error says why there is no file; then a node does without.
func Open(dir string, shards int, now time.Time) (*File, []Death, error) {
	want := int64(1+shards+deaths) * size
	f, err := os.OpenFile(dir+string(os.PathSeparator)+name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close() // the mapping stays
	head := header(shards)
	got := make([]byte, len(head))
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, head) || info.Size() != want {
		// written, not only made longer: a store into a page that the disk has no room for ends the process
		if err := errors.Join(f.Truncate(0), writeAll(f, append(head, make([]byte, want-size)...)), f.Truncate(want)); err != nil {
			return nil, nil, err
		}
	}
	data, err := mapFile(f, int(want))
	if err != nil {
		return nil, nil, fmt.Errorf("%s cannot be mapped: %w", f.Name(), err)
	}
	all := unsafe.Slice((*slot)(unsafe.Pointer(&data[size])), shards+deaths)
	file := &File{data: data, all: all, shards: shards}
	return file, file.count(now), nil
}

func writeAll(f *os.File, b []byte) error {
	_, err := f.WriteAt(b, 0)
	return err
}

func header(shards int) []byte {
	h := make([]byte, size)
	copy(h, magic)
	binary.LittleEndian.PutUint32(h[len(magic):], uint32(shards))
	return h
}

// count turns the slots of the last process into deaths.
func (f *File) count(now time.Time) (found []Death) {
	for i := range f.deaths() {
		d := &f.deaths()[i]
		if !d.whole() || now.Sub(time.Unix(d.time, 0)).Abs() > memory {
			d.turn.Store(0)
		}
	}
	for i := range f.all[:f.shards] {
		s := &f.all[i]
		turn := s.turn.Load()
		if turn%2 == 0 {
			continue
		}
		s.turn.Store(0) // first: one death too few costs a restart, one too many an event
		if !s.whole() {
			continue
		}
		d := f.death(s.identity)
		d.identity, d.check, d.shard = s.identity, s.check, uint32(i+1)
		d.grainN, d.eventN, d.grain, d.event, d.time = s.grainN, s.eventN, s.grain, s.event, now.Unix()
		d.turn.Add(1)
		found = append(found, d.death())
	}
	return found
}

// whole tells whether the contents were written here.
func (s *slot) whole() bool {
	return s.check == s.identity^scramble && s.grainN <= grainText && s.eventN <= eventText
}

func (s *slot) death() Death {
	return Death{Identity: s.identity, Shard: uint64(s.shard), Grain: string(s.grain[:s.grainN]), Event: string(s.event[:s.eventN]),
		Count: s.turn.Load(), Last: time.Unix(s.time, 0)}
}

func (f *File) deaths() []slot { return f.all[f.shards:] }

// death finds the place of an event among the deaths: its own, a free one, or that of the oldest.
func (f *File) death(identity uint64) *slot {
	all := f.deaths()
	oldest := &all[0]
	for i := range all {
		d := &all[i]
		if d.turn.Load() != 0 && d.identity == identity {
			return d
		}
		if oldest.turn.Load() != 0 && (d.turn.Load() == 0 || d.time < oldest.time) {
			oldest = d
		}
	}
	oldest.turn.Store(0)
	return oldest
}

// Deaths are the events that ended the process at least a number of times, by identity.
func (f *File) Deaths(least uint64) (found []Death) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.deaths() {
		if d := &f.deaths()[i]; d.turn.Load() >= max(least, 1) {
			found = append(found, d.death())
		}
	}
	slices.SortFunc(found, func(a, b Death) int { return cmp.Compare(a.Identity, b.Identity) })
	return found
}

// Forget takes an event off the list: it is dealt with.
func (f *File) Forget(identity uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.deaths() {
		if d := &f.deaths()[i]; d.turn.Load() != 0 && d.identity == identity {
			d.turn.Store(0)
		}
	}
}

// Slot is the slot of a shard.
func (f *File) Slot(shard uint64) *Slot { return (*Slot)(&f.all[shard-1]) }

// Close gives the memory back. No slot may be used again.
func (f *File) Close() error { return unmap(f.data) }

// Slot holds the turn that a shard runs. One goroutine begins and ends turns; others may look on.
type Slot slot

// NewSlot returns a slot that nobody remembers, for a store in memory.
func NewSlot() *Slot { return &Slot{} }

// Begin notes a turn, and returns its number: odd, and above that of any turn before.
func (s *Slot) Begin(identity uint64, kind, key, event string) (number uint64) {
	s.identity, s.check = identity, identity^scramble
	n := copy(s.grain[:], kind)
	if n < grainText {
		s.grain[n] = '/'
		n++
	}
	s.grainN = uint8(n + copy(s.grain[n:], key))
	if len(event) > eventText {
		event = event[len(event)-eventText:]
	}
	s.eventN = uint8(copy(s.event[:], event))
	number = (s.turn.Load() + 1) | 1
	s.turn.Store(number) // last: whoever finds it odd finds the rest
	return number
}

// End notes that a turn has ended; false tells that somebody else has ended it before, with End too.
func (s *Slot) End(number uint64) bool { return s.turn.CompareAndSwap(number, number+1) }

// Turn is the number of the turn that runs, or 0.
func (s *Slot) Turn() uint64 {
	if n := s.turn.Load(); n%2 == 1 {
		return n
	}
	return 0
}
