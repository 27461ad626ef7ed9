package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/journal"
)

// line is one message from the coordinator's process to its watcher. Exactly one field is set. Both are the same
// binary, so that the form is nobody else's business.
type line struct {
	Progress *migrate.Progress `json:"progress,omitempty"`
	Check    *checked          `json:"check,omitempty"`
	End      *end              `json:"end,omitempty"`
	// Wait is a migration that has not begun.
	Wait *journal.Wait `json:"wait,omitempty"`
}

// checked is what check found, as text and as JSON.
type checked struct {
	Text     string          `json:"text"`
	JSON     json.RawMessage `json:"json"`
	Blocked  bool            `json:"blocked"`
	Warnings int             `json:"warnings"`
}

// end is the last line.
type end struct {
	Report *migrate.Report `json:"report,omitempty"`
	Code   int             `json:"code"`
	// Error and Fix say what went wrong, for people.
	Error string `json:"error,omitempty"`
	Fix   string `json:"fix,omitempty"`
}

// lineLimit bounds a line from the coordinator in bytes: a report with thousands of rounds stays far below it.
const lineLimit = 16 << 20

// emitter writes lines from a goroutine of its own. A watcher that is gone, stopped or slow is no error and holds nothing
// up: the migration matters, not who looks at it. Progress that finds the queue full is dropped.
type emitter struct {
	pipe  *os.File
	queue chan line
	done  chan struct{}
}

const (
	emitQueue = 256
	// emitSpare is the room that progress leaves for what must not be dropped.
	emitSpare = 8
	// emitPatience is how long the end may take to be written.
	emitPatience = 5 * time.Second
)

// newEmitter takes over the pipe. The caller closes the emitter, which waits for its goroutine.
func newEmitter(pipe *os.File) *emitter {
	e := &emitter{pipe: pipe, queue: make(chan line, emitQueue), done: make(chan struct{})}
	go e.run()
	return e
}

func (e *emitter) run() {
	defer close(e.done)
	enc := json.NewEncoder(e.pipe)
	for l := range e.queue {
		if err := enc.Encode(l); err != nil {
			break // nobody reads
		}
	}
	for range e.queue { // let emit go on until close
	}
}

// emit queues a line; it never blocks. It is called from one goroutine at a time.
func (e *emitter) emit(l line) {
	if l.Progress != nil && len(e.queue) > emitQueue-emitSpare {
		return
	}
	select {
	case e.queue <- l:
	default:
	}
}

// close writes what is queued, for as long as emitPatience at most, and closes the pipe.
func (e *emitter) close() {
	_ = e.pipe.SetWriteDeadline(time.Now().Add(emitPatience))
	close(e.queue)
	<-e.done
	_ = e.pipe.Close()
}

// errCut says that the lines ended without an end: the coordinator died.
var errCut = errors.New("the coordinator ended without a word")

// readLines hands every line to f and returns the end.
func readLines(r io.Reader, f func(line)) (*end, error) {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 64<<10), lineLimit)
	for sc.Scan() {
		var l line
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			return nil, fmt.Errorf("a line of the coordinator cannot be read: %w", err)
		}
		if l.End != nil {
			return l.End, nil
		}
		f(l)
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	return nil, errCut
}
