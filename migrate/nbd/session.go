package nbd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"time"
)

var errProtocol = errors.New("nbd: the peer broke the protocol")

// session is a connection that has its export: one goroutine reads requests, each is worked on by one of its own, and
// whichever of those finds the writer idle writes all replies that are ready.
type session struct {
	srv        *Server
	dev        *device
	conn       net.Conn
	br         *bufio.Reader
	structured bool
	contexts   []metaContext

	room *budget
	jobs sync.WaitGroup
	out  replyQueue
	free sync.Pool // *job
}

func newSession(srv *Server, n *negotiation) *session {
	s := &session{srv: srv, dev: n.chosen, conn: n.conn, br: n.br, structured: n.structured, contexts: n.contexts}
	s.room = newBudget(srv.cfg.Limits.Requests, srv.cfg.Limits.Bytes)
	s.out = replyQueue{conn: n.conn, done: s.release}
	s.free.New = func() any { return new(job) }
	return s
}

// job is a request on its way to its reply.
type job struct {
	request
	buf  *[]byte // what was read, or is to be written; nil if nothing
	head []byte  // the reply's heads
	iov  [][]byte
	room int64 // bytes of the budget
	here bool  // the data of a write is where it belongs
	end  bool  // the connection ends with this reply
}

// run serves until the client leaves, breaks a rule, or the context ends. Afterwards nothing of it runs any more.
func (s *session) run(ctx context.Context) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) }) // wakes the reader
	defer stop()
	err := s.read(work)
	s.finish(cancel)
	switch broken := s.out.failure(); {
	case ctx.Err() != nil:
		return nil
	case broken != nil && (err == nil || !errors.Is(err, errProtocol)):
		return fmt.Errorf("nbd: reply: %w", broken)
	}
	return err
}

// finish waits for what is in flight: as long as there is grace, and then the connection goes, and the backend is told.
func (s *session) finish(cancel context.CancelFunc) {
	grace := time.AfterFunc(s.srv.cfg.Limits.Grace, func() {
		cancel()
		_ = s.conn.Close() // ends writes that hang
	})
	s.jobs.Wait()
	grace.Stop()
}

// read takes requests until there are no more.
func (s *session) read(ctx context.Context) error {
	for {
		head, err := s.br.Peek(requestLen)
		if err != nil {
			if errors.Is(err, io.EOF) && len(head) == 0 {
				return nil // gone without a word, but between requests
			}
			return fmt.Errorf("nbd: request: %w", err)
		}
		r, ok := parseRequest(head)
		if !ok {
			return fmt.Errorf("%w: a request without its magic", errProtocol)
		}
		_, _ = s.br.Discard(requestLen) // it was peeked
		if r.cmd == cmdDisc {
			return nil
		}
		if err := s.take(ctx, r); err != nil {
			return err
		}
	}
}

// take checks a request, reads its data and sees that it is worked on.
func (s *session) take(ctx context.Context, r request) error {
	errno, text := s.check(r)
	if r.cmd == cmdWrite && errno != 0 {
		if r.length > maxPayload {
			return fmt.Errorf("%w: a write of %d bytes", errProtocol, r.length)
		}
		if _, err := s.br.Discard(int(r.length)); err != nil {
			return fmt.Errorf("nbd: data of a write: %w", err)
		}
	}
	j := s.free.Get().(*job)
	j.request = r
	if errno == 0 && (r.cmd == cmdRead || r.cmd == cmdWrite) {
		j.room = int64(r.length)
	}
	alone := s.room.take(j.room) == 1
	if errno != 0 {
		s.fail(j, errno, text)
		s.out.send(j)
		return nil
	}
	if r.cmd == cmdWrite {
		if err := s.receive(j); err != nil {
			s.release(j)
			return fmt.Errorf("nbd: data of a write: %w", err)
		}
	}
	if j.here && r.flags&cmdFlagFUA == 0 {
		s.work(ctx, j) // all that is left is to say so
		return nil
	}
	if alone && r.cmd == cmdRead && s.dev.view != nil && s.br.Buffered() < requestLen {
		s.work(ctx, j) // memory does not keep others waiting, and a change of goroutines would take as long
		return nil
	}
	s.jobs.Go(func() { s.work(ctx, j) })
	return nil
}

// receive reads the data of a write: into the backend's memory if that may be, else into a buffer.
func (s *session) receive(j *job) (err error) {
	var p []byte
	if s.dev.direct != nil {
		p = s.dev.direct.Receive(int64(j.offset), int64(j.length))
	}
	if p == nil {
		j.buf = s.srv.buffers.get(int(j.length))
		_, err = io.ReadFull(s.br, *j.buf)
		return err
	}
	// The memory may go away while it is written to, such as when there is none left.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the backend's memory: %v", v)
		}
	}()
	j.here = true
	_, err = io.ReadFull(s.br, p)
	return err
}

// work does a request and sends its reply.
func (s *session) work(ctx context.Context, j *job) {
	s.do(ctx, j)
	s.out.send(j)
}

// release takes back what a job held, when its reply has been written or never will be.
func (s *session) release(j *job) {
	s.srv.buffers.put(j.buf)
	room := j.room
	clear(j.iov)
	*j = job{head: j.head[:0], iov: j.iov[:0]}
	s.free.Put(j)
	s.room.give(room)
}

// replyQueue writes replies: who comes while nobody writes, writes all that have come until none are left.
type replyQueue struct {
	conn net.Conn
	done func(*job) // called for each job, written or not

	mu     sync.Mutex
	busy   bool
	err    error
	queue  []*job
	spare  []*job
	vector net.Buffers
	small  []byte
}

// smallReply is what is rather copied than written in pieces.
const smallReply = 16 << 10

// push writes what is in vector. Small replies go out as one, in one record of TLS, where they would be one write for each
// piece.
func (q *replyQueue) push() error {
	size := 0
	for _, b := range q.vector {
		size += len(b)
	}
	switch q.conn.(type) {
	case *net.TCPConn, *net.UnixConn: // they take all pieces at once
		size = smallReply + 1
	}
	if size > smallReply {
		vector := q.vector // writeAll uses its argument up
		return writeAll(q.conn, &vector)
	}
	q.small = q.small[:0]
	for _, b := range q.vector {
		q.small = append(q.small, b...)
	}
	_, err := q.conn.Write(q.small)
	return err
}

func (q *replyQueue) failure() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}

// send queues the reply of a job, which it owns from now on.
func (q *replyQueue) send(j *job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queue = append(q.queue, j)
	if q.busy {
		return
	}
	q.busy = true
	for len(q.queue) > 0 {
		batch, dead := q.queue, q.err
		q.queue = q.spare[:0]
		q.mu.Unlock()
		err := q.write(batch, dead)
		q.mu.Lock()
		q.err = err
		clear(batch)
		q.spare = batch
	}
	q.busy = false
}

func (q *replyQueue) write(batch []*job, dead error) error {
	q.vector = q.vector[:0]
	end := false
	for _, j := range batch {
		q.vector = append(q.vector, j.iov...)
		end = end || j.end
	}
	if dead == nil {
		dead = q.push()
		if dead != nil || end {
			_ = q.conn.Close() // the reader ends, too; dead tells why
		}
	}
	for _, j := range batch {
		q.done(j)
	}
	return dead
}
