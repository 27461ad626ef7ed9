package hugepages

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Size is the size of one page in bytes.
const Size = 2 << 20

// RecordFile is the name of a ledger's file in the directory of its lab.
const RecordFile = "hugepages.json"

// ErrNone says that the machine cannot give that many huge pages.
var ErrNone = errors.New("the machine does not have that many huge pages")

// pool is the machine's pool, counted in pages, without those that the kernel lends
// beyond it.
type pool interface {
	get() (int, error)
	set(pages int) error
}

// Ledger is what one lab has borrowed. It is a value; the state is in its file.
type Ledger struct {
	path string
	pool pool
	lock string
}

// In is the ledger of the lab in dir.
func In(dir string) Ledger {
	return Ledger{path: filepath.Join(dir, RecordFile), pool: sysfs("/sys/kernel/mm/hugepages/hugepages-2048kB"), lock: "/var/tmp"}
}

// Supported reports whether this kernel has huge pages of Size and a file system
// for them.
func Supported() bool {
	kinds, err := os.ReadFile("/proc/filesystems")
	if err != nil || !strings.Contains(string(kinds), "\thugetlbfs\n") {
		return false
	}
	_, err = sysfs("/sys/kernel/mm/hugepages/hugepages-2048kB").get()
	return err == nil
}

// sysfs is the pool behind a directory of /sys.
type sysfs string

func (s sysfs) number(name string) (int, error) {
	b, err := os.ReadFile(filepath.Join(string(s), name))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

func (s sysfs) get() (int, error) {
	all, err := s.number("nr_hugepages")
	if err != nil {
		return 0, err
	}
	lent, err := s.number("surplus_hugepages")
	return all - lent, err
}

func (s sysfs) set(pages int) error {
	return os.WriteFile(filepath.Join(string(s), "nr_hugepages"), []byte(strconv.Itoa(pages)), 0)
}

// record is the ledger's file.
type record struct {
	// Held is what was borrowed, in pages.
	Held int `json:"held"`
	// Moving is set while the pool is being changed.
	Moving *move `json:"moving,omitempty"`
}

// move is a change of the pool from one size to another.
type move struct {
	From int `json:"from"`
	To   int `json:"to"`
}

// done is how many pages of the move were made, given the pool's size now; negative
// for pages returned.
func (m move) done(now int) int {
	low, high := min(0, m.To-m.From), max(0, m.To-m.From)
	return min(max(now-m.From, low), high)
}

// Held is how many pages the ledger has borrowed.
func (l Ledger) Held() (int, error) {
	held := 0
	err := l.locked(func() error {
		r, _, err := l.settle()
		held = r.Held
		return err
	})
	return held, err
}

// Borrow adds so many pages to the pool. It gets all of them or fails with an error
// that wraps ErrNone and has the fix, and then the pool is as before.
func (l Ledger) Borrow(pages int) error {
	if pages < 0 {
		return fmt.Errorf("borrow %d huge pages: not a number of pages", pages)
	}
	return l.locked(func() error {
		got, err := l.change(pages)
		if err == nil && got < pages {
			err = fmt.Errorf("%w: %d of %d pages of 2 MiB could be had; free memory (echo 1 >/proc/sys/vm/compact_memory helps) or use pages of 4 KiB",
				ErrNone, got, pages)
			_, back := l.change(-got)
			err = errors.Join(err, back)
		}
		return err
	})
}

// Return takes so many pages away from the pool again, at most those that are held.
func (l Ledger) Return(pages int) error {
	return l.locked(func() error {
		_, err := l.change(-max(pages, 0))
		return err
	})
}

// ReturnAll returns what is held and removes the record. It is idempotent, and does
// nothing where nothing was ever borrowed.
func (l Ledger) ReturnAll() error {
	if _, err := os.Lstat(l.path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return l.locked(func() error {
		r, _, err := l.settle()
		if err == nil && r.Held > 0 {
			_, err = l.change(-r.Held)
		}
		if err != nil {
			return err
		}
		return os.Remove(l.path)
	})
}

// change moves the pool by so many pages and returns by how many it did move.
func (l Ledger) change(by int) (int, error) {
	r, now, err := l.settle()
	if err != nil {
		return 0, err
	}
	by = max(by, -r.Held)
	r.Moving = &move{From: now, To: max(now+by, 0)}
	if err := l.write(r); err != nil {
		return 0, err
	}
	if err := l.pool.set(r.Moving.To); err != nil {
		return 0, err
	}
	if now, err = l.pool.get(); err != nil {
		return 0, err
	}
	moved := r.Moving.done(now)
	if by < 0 {
		// Pages in use leave the pool when they are free; they are not ours any more.
		moved = by
	}
	return moved, l.write(record{Held: r.Held + moved})
}

// settle reads the record, and takes a move that was cut short for what was done of it.
func (l Ledger) settle() (r record, now int, err error) {
	if now, err = l.pool.get(); err != nil {
		return r, 0, err
	}
	b, err := os.ReadFile(l.path)
	if errors.Is(err, os.ErrNotExist) {
		return r, now, nil
	}
	if err != nil {
		return r, now, err
	}
	if err := json.Unmarshal(b, &r); err != nil || r.Held < 0 {
		return record{}, now, fmt.Errorf("%s is damaged (%q): compare nr_hugepages with what this machine should have, and remove the file", l.path, b)
	}
	if r.Moving != nil {
		r.Held = max(r.Held+r.Moving.done(now), 0)
		r.Moving = nil
	}
	return r, now, nil
}

// write replaces the record in one step.
func (l Ledger) write(r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.path+".new", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(l.path+".new", l.path)
}

// locked runs fn while no other ledger of the machine changes the pool.
func (l Ledger) locked(fn func() error) error {
	dir, err := os.Open(l.lock)
	if err == nil {
		defer dir.Close()
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX)
	}
	if err == nil {
		err = fn()
	}
	if err != nil {
		return fmt.Errorf("huge pages: %w", err)
	}
	return nil
}
