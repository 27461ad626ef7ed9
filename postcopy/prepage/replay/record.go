package replay

import (
	"bufio"
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

// Recorder writes a trace while a guest is being paged in with the policy none. With any other policy the trace lacks
// the touches of pages that came before, and says too little. It is not safe for use by several goroutines.
type Recorder struct {
	out  *bufio.Writer
	err  error
	last time.Duration
	line []byte
}

// NewRecorder writes the head of a trace to w. A cost of 0 and no hot pages are left out.
func NewRecorder(w io.Writer, blocks []ram.Block, missing ram.Set, hot []prepage.Ref, cost time.Duration) (*Recorder, error) {
	if err := missing.Fits(blocks); err != nil {
		return nil, fmt.Errorf("fault trace: %w", err)
	}
	r := &Recorder{out: bufio.NewWriter(w)}
	head := csv.NewWriter(r.out)
	_ = head.Write([]string{format, "1"})
	for _, b := range blocks {
		_ = head.Write([]string{"block", b.Name, strconv.FormatInt(b.Size, 10), strconv.FormatInt(b.PageSize, 10)})
	}
	head.Flush()
	r.err = head.Error()
	if cost > 0 {
		r.put("cost", int64(cost))
	}
	for i, b := range missing {
		for lo, hi := range b.Runs() {
			r.put("missing", int64(i), int64(lo), int64(hi))
		}
	}
	for _, h := range hot {
		r.put("hot", int64(h.Block), int64(h.Page))
	}
	return r, r.err
}

// Fault records the touch of a page, at a time since the guest runs. A time before that of the last one counts as that one.
func (r *Recorder) Fault(at time.Duration, thread, block, page int) {
	r.last = max(r.last, at)
	r.put("fault", int64(r.last), int64(block), int64(page), int64(thread))
}

// Close writes what is buffered and returns the first error there was. It does not close the writer below.
func (r *Recorder) Close() error {
	if err := r.out.Flush(); r.err == nil {
		r.err = err
	}
	return r.err
}

func (r *Recorder) put(kind string, values ...int64) {
	r.line = append(r.line[:0], kind...)
	for _, v := range values {
		r.line = strconv.AppendInt(append(r.line, ','), v, 10)
	}
	if _, err := r.out.Write(append(r.line, '\n')); r.err == nil {
		r.err = err
	}
}

// Write writes the trace to w.
func (t *Trace) Write(w io.Writer) error {
	r, err := NewRecorder(w, t.Blocks, t.Missing, t.Hot, t.Cost)
	if err != nil {
		return err
	}
	for _, f := range t.Faults {
		r.Fault(f.At, f.Thread, f.Block, f.Page)
	}
	return r.Close()
}
