package replay

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

// Trace is the recording of one post-copy without pre-paging.
type Trace struct {
	Blocks []ram.Block
	// Missing are the pages that were missing at the switch.
	Missing ram.Set
	// Hot are the pages that the source saw dirtied last, hottest first.
	Hot []prepage.Ref
	// Cost is how long a fault of the recording took; it is taken off the time between two of them.
	Cost time.Duration
	// Faults are in the order of their times; of one thread they are in the order in which it touched.
	Faults []Fault
}

// Fault is the first touch of a page.
type Fault struct {
	// At is the time since the guest runs.
	At time.Duration
	// Thread is who touched it: any number that tells the threads apart.
	Thread int
	prepage.Ref
}

// What a trace may hold at most, so that a file cannot ask for any amount of memory.
const (
	maxBlocks = 256
	maxPages  = 1 << 24 // of all blocks together: 64 GiB in pages of 4 KiB
	maxFaults = 1 << 24
	maxLine   = 1024
	format    = "vmmigrate.faults"
)

// Read reads a trace. Whatever cannot be one is refused, with the number of its line.
func Read(r io.Reader) (*Trace, error) {
	lines := csv.NewReader(&shortLines{r: bufio.NewReader(r)})
	lines.FieldsPerRecord = -1
	lines.ReuseRecord = true
	head, err := lines.Read()
	if err != nil || len(head) != 2 || head[0] != format || head[1] != "1" {
		return nil, errors.Join(fmt.Errorf("not a fault trace: it does not begin with %s,1", format), err)
	}
	rd := &reader{t: &Trace{}}
	for {
		rec, err := lines.Read()
		if errors.Is(err, io.EOF) {
			return rd.end()
		}
		if err != nil {
			return nil, fmt.Errorf("fault trace: %w", err)
		}
		if err := rd.record(rec); err != nil {
			line, _ := lines.FieldPos(0)
			return nil, fmt.Errorf("fault trace, line %d: %w", line, err)
		}
	}
}

// shortLines refuses a line of more than maxLine bytes before anybody holds it in memory.
type shortLines struct {
	r *bufio.Reader
	n int
}

var errLongLine = fmt.Errorf("a line of more than %d bytes", maxLine)

func (s *shortLines) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	for _, c := range p[:n] {
		if s.n++; c == '\n' {
			s.n = 0
		}
		if s.n > maxLine {
			return 0, errLongLine
		}
	}
	return n, err
}

// reader builds a trace from its records.
type reader struct {
	t       *Trace
	pages   int64
	started bool // something else than a block was read
}

func (r *reader) record(rec []string) error {
	if rec[0] == "block" {
		return r.block(rec)
	}
	if !r.started {
		r.started = true
		r.t.Missing = ram.NewSet(r.t.Blocks)
	}
	want := map[string]int{"cost": 1, "missing": 3, "hot": 2, "fault": 4}[rec[0]]
	if want == 0 || len(rec) != 1+want {
		return fmt.Errorf("no record of kind %q with %d values is known", rec[0], len(rec)-1)
	}
	var v [4]int64
	for i, f := range rec[1:] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("%q is not a number from 0", f)
		}
		v[i] = n
	}
	switch rec[0] {
	case "cost":
		r.t.Cost = time.Duration(v[0])
		return nil
	case "missing":
		return r.missing(v[0], v[1], v[2])
	case "hot":
		return r.hot(v[0], v[1])
	default:
		return r.fault(v)
	}
}

func (r *reader) block(rec []string) error {
	if r.started || len(r.t.Blocks) == maxBlocks || len(rec) != 4 {
		return errors.New("a block has a name, a size and a page size, comes first, and is one of at most " + strconv.Itoa(maxBlocks))
	}
	size, err1 := strconv.ParseInt(rec[2], 10, 64)
	page, err2 := strconv.ParseInt(rec[3], 10, 64)
	b := ram.Block{Name: rec[1], Size: size, PageSize: page}
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if err := b.Check(); err != nil {
		return err
	}
	if r.pages += int64(b.Pages()); r.pages > maxPages {
		return fmt.Errorf("more than %d pages", maxPages)
	}
	r.t.Blocks = append(r.t.Blocks, b)
	return nil
}

// ref is the page, if there is such a page.
func (r *reader) ref(block, page int64) (prepage.Ref, error) {
	if block >= int64(len(r.t.Blocks)) || page >= int64(r.t.Blocks[block].Pages()) {
		return prepage.Ref{}, fmt.Errorf("there is no page %d of block %d", page, block)
	}
	return prepage.Ref{Block: int(block), Page: int(page)}, nil
}

func (r *reader) missing(block, lo, hi int64) error {
	if _, err := r.ref(block, hi-1); err != nil || lo >= hi {
		return errors.Join(fmt.Errorf("no pages [%d, %d)", lo, hi), err)
	}
	r.t.Missing[block].SetRange(int(lo), int(hi))
	return nil
}

func (r *reader) hot(block, page int64) error {
	ref, err := r.ref(block, page)
	if err == nil && int64(len(r.t.Hot)) >= r.pages {
		err = errors.New("more hot pages than pages")
	}
	r.t.Hot = append(r.t.Hot, ref)
	return err
}

func (r *reader) fault(v [4]int64) error {
	ref, err := r.ref(v[1], v[2])
	if err != nil {
		return err
	}
	at := time.Duration(v[0])
	if n := len(r.t.Faults); n > 0 && at < r.t.Faults[n-1].At {
		return errors.New("a fault before the one above it")
	}
	if len(r.t.Faults) == maxFaults {
		return fmt.Errorf("more than %d faults", maxFaults)
	}
	if v[3] > 1<<31 {
		return fmt.Errorf("%d is no thread", v[3])
	}
	r.t.Faults = append(r.t.Faults, Fault{At: at, Thread: int(v[3]), Ref: ref})
	return nil
}

func (r *reader) end() (*Trace, error) {
	if len(r.t.Blocks) == 0 {
		return nil, errors.New("fault trace: no blocks")
	}
	if r.t.Missing == nil {
		r.t.Missing = ram.NewSet(r.t.Blocks)
	}
	if r.t.Missing.Empty() {
		r.t.Missing.Fill()
	}
	return r.t, nil
}
