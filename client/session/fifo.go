package session

// fifo is a queue of spans that can also be given back what was taken.
type fifo struct {
	spans []span
	head  int
}

func (q *fifo) empty() bool { return q.head == len(q.spans) }
func (q *fifo) peek() span  { return q.spans[q.head] }

func (q *fifo) push(sp span) {
	if q.empty() {
		q.spans, q.head = q.spans[:0], 0
	}
	if q.head > len(q.spans)/2 && len(q.spans) == cap(q.spans) {
		n := copy(q.spans, q.spans[q.head:])
		clear(q.spans[n:])
		q.spans, q.head = q.spans[:n], 0
	}
	q.spans = append(q.spans, sp)
}

func (q *fifo) pop() span {
	sp := q.spans[q.head]
	q.spans[q.head] = span{}
	q.head++
	return sp
}

// unshift puts spans before all others.
func (q *fifo) unshift(front []span) {
	if len(front) == 0 {
		return
	}
	q.spans, q.head = append(front, q.spans[q.head:]...), 0
}
