package session

// flight is what was sent on one stream and not answered. Batches carry consecutive numbers and are answered in any
// order.
type flight struct {
	// next number to give.
	next uint64
	// slots hold the numbers next-len(slots) … next-1; an answered one has no batch. The first is never answered.
	slots []span
	// unanswered batches among the slots.
	unanswered int
}

func (f *flight) base() uint64 { return f.next - uint64(len(f.slots)) }

// push takes a span in and gives it a number.
func (f *flight) push(sp span) uint64 {
	f.slots = append(f.slots, sp)
	f.unanswered++
	f.next++
	return f.next - 1
}

// at is the span with the number; its batch is nil if it is not in flight.
func (f *flight) at(number uint64) span {
	if number < f.base() || number >= f.next {
		return span{}
	}
	return f.slots[number-f.base()]
}

// answer takes the span with the number out. It must be in flight.
func (f *flight) answer(number uint64) {
	f.slots[number-f.base()] = span{}
	f.unanswered--
	done := 0
	for done < len(f.slots) && f.slots[done].b == nil {
		done++
	}
	f.slots = f.slots[done:]
}

// oldest is the smallest number in flight.
func (f *flight) oldest() (uint64, bool) { return f.base(), len(f.slots) > 0 }

// drain takes everything out, in the order of numbers.
func (f *flight) drain() []span {
	all := make([]span, 0, f.unanswered)
	for _, sp := range f.slots {
		if sp.b != nil {
			all = append(all, sp)
		}
	}
	f.slots, f.unanswered = nil, 0
	return all
}
