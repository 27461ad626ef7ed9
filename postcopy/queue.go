package postcopy

// want is a page that somebody waits for and that has to be asked for.
type want struct {
	s *space
	ref
}

// fifo is a queue that keeps its memory.
type fifo struct {
	items []want
	head  int
}

func (q *fifo) len() int { return len(q.items) - q.head }

func (q *fifo) push(w want) {
	if q.head > 0 && len(q.items) == cap(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, w)
}

func (q *fifo) pop() (want, bool) {
	if q.len() == 0 {
		return want{}, false
	}
	w := q.items[q.head]
	q.items[q.head] = want{}
	if q.head++; q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	return w, true
}
