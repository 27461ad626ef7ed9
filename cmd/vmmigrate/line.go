package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// line is one message from the coordinator's process to its watcher. Exactly one field is set. Both are the same
// binary, so that the form is nobody else's business.
type line struct {
	Progress *migrate.Progress `json:"progress,omitempty"`
	Check    *checked          `json:"check,omitempty"`
	End      *end              `json:"end,omitempty"`
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

// emitter writes lines. A watcher that is gone is no error: the migration matters, not who looks at it.
type emitter struct {
	mu   sync.Mutex
	w    io.Writer
	dead bool
}

func (e *emitter) emit(l line) {
	b, err := json.Marshal(l)
	if err != nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dead {
		return
	}
	if _, err := e.w.Write(append(b, '\n')); err != nil {
		e.dead = true
	}
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
