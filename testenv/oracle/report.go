package oracle

import (
	"fmt"
	"time"
)

// Kind says what sort of error was found. The values are part of the JSON of
// Report and WitnessReport.
type Kind string

// The kinds of findings. For each, Finding.Index is the page, block or ledger
// page, and Want and Got are the expected and the found version, unless said.
const (
	// LostPage: the page reads as zeros.
	LostPage Kind = "lost-page"
	// StalePage: the page holds an older version, whole.
	StalePage Kind = "stale-page"
	// TornPage: the page is no record at all: parts of several versions, or garbage.
	TornPage Kind = "torn-page"
	// MisplacedPage: the page holds the record of another page (Got: its
	// index) or of another guest.
	MisplacedPage Kind = "misplaced-page"
	// FuturePage: the page is newer than the ledger says.
	FuturePage Kind = "future-page"
	// StaleTable: a page of the ledger is older than the level above it says.
	StaleTable Kind = "stale-table"
	// TornTable: a page of the ledger contradicts itself.
	TornTable Kind = "torn-table"
	// StaleSeal: the two copies of the seal differ, or the last write it names
	// is not there.
	StaleSeal Kind = "stale-seal"
	// LostWrite: a disk block holds an older version, or what it held before
	// its first write.
	LostWrite Kind = "lost-write"
	// LostFill: a disk block that was filled before the guest booted, and not
	// written since, has lost that.
	LostFill Kind = "lost-fill"
	// TornBlock: a disk block is no record at all.
	TornBlock Kind = "torn-block"
	// MisplacedBlock: a disk block holds the record of another block or guest.
	MisplacedBlock Kind = "misplaced-block"
	// FutureBlock: a disk block is newer than the ledger says: memory went
	// back and the disk did not.
	FutureBlock Kind = "future-block"
	// DiskError: the disk failed a read, a write or a flush.
	DiskError Kind = "disk-error"
	// ReplayedTick: ticks told after others were lower than those.
	ReplayedTick Kind = "replayed-tick"
	// WentBack: an answer, a write count or a clock told after others was
	// lower than those.
	WentBack Kind = "went-back"
	// TwoGuests: two answers that one guest cannot both have given.
	TwoGuests Kind = "two-guests"
	// Rebooted: another incarnation answers.
	Rebooted Kind = "rebooted"
	// ClockBack: the guest's monotonic clock went backwards (Want, Got: ns).
	ClockBack Kind = "clock-backwards"
	// ClockJump: the guest's wall clock moved against its monotonic clock by
	// more than MaxClockStep.
	ClockJump Kind = "realtime-jump"
	// NoTicks: the guest answers, and its clock stands still or its timers do not
	// fire (Want, Got: ticks).
	NoTicks Kind = "no-ticks"
	// Unseen: the witness had no answer at all, so it vouches for nothing.
	Unseen Kind = "unseen"
)

// MaxClockStep bounds how far the guest's wall clock may move against its
// monotonic clock from one tick to the next.
const MaxClockStep = time.Second

// Finding is one error.
type Finding struct {
	Kind Kind `json:"kind"`
	// Disk names the disk, where the finding is about a block of one: Index counts
	// from its beginning.
	Disk  string `json:"disk,omitempty"`
	Index uint64 `json:"index"`
	Want  uint64 `json:"want"`
	Got   uint64 `json:"got"`
	// Detail says it in words, for a person.
	Detail string `json:"detail,omitempty"`
}

// String is one line for a person.
func (f Finding) String() string {
	s := fmt.Sprintf("%s at %d: want %d, got %d", f.Kind, f.Index, f.Want, f.Got)
	if f.Disk != "" {
		s = fmt.Sprintf("%s at block %d of disk %s: want %d, got %d", f.Kind, f.Index, f.Disk, f.Want, f.Got)
	}
	if f.Detail != "" {
		s += " (" + f.Detail + ")"
	}
	return s
}

// maxFindings bounds how many findings of one kind are listed; all are counted.
const maxFindings = 16

// Findings is a list with a bound for each kind, and a count without one. The
// zero value is empty and ready.
type Findings struct {
	// List holds the first findings of each kind.
	List []Finding `json:"list"`
	// Counts says how many there were of each kind.
	Counts map[Kind]uint64 `json:"counts"`
}

// Add appends a finding, or only counts it when enough of its kind are listed.
func (fs *Findings) Add(f Finding) {
	if fs.Counts == nil {
		fs.Counts = make(map[Kind]uint64)
	}
	fs.Counts[f.Kind]++
	if fs.Counts[f.Kind] <= maxFindings {
		fs.List = append(fs.List, f)
	}
}

// Total is how many findings there were.
func (fs Findings) Total() (n uint64) {
	for _, c := range fs.Counts {
		n += c
	}
	return n
}

// Has says whether there was a finding of kind k.
func (fs Findings) Has(k Kind) bool { return fs.Counts[k] > 0 }

// merge adds all of other, with its counts.
func (fs *Findings) merge(other Findings) {
	listed := make(map[Kind]uint64)
	for _, f := range other.List {
		fs.Add(f)
		listed[f.Kind]++
	}
	for k, n := range other.Counts {
		if n > listed[k] {
			if fs.Counts == nil {
				fs.Counts = make(map[Kind]uint64)
			}
			fs.Counts[k] += n - listed[k]
		}
	}
}

// clone copies the findings, so that the original may go on growing.
func (fs *Findings) clone() Findings {
	var c Findings
	c.merge(*fs)
	return c
}

// Seal is where a guest is in its own history. Every value only ever grows,
// but for the two chains, which never repeat and differ between two guests
// that were one.
type Seal struct {
	// Incarnation is drawn anew each time a guest boots.
	Incarnation uint64 `json:"incarnation"`
	// Answers counts answers to pings.
	Answers uint64 `json:"answers"`
	// Ticks counts ticks of the guest, one each TickPeriod of its running time.
	Ticks uint64 `json:"ticks"`
	// TickChain is a hash over all ticks and the nanosecond of each.
	TickChain uint64 `json:"tick_chain"`
	// Pages and Blocks count page writes and block writes.
	Pages  uint64 `json:"pages"`
	Blocks uint64 `json:"blocks"`
	// Chain is a hash over all writes in their order.
	Chain uint64 `json:"chain"`
	// Mono is the guest's monotonic clock at its latest tick.
	Mono time.Duration `json:"mono_ns"`
}

// TickPeriod is the time between two ticks of a guest.
const TickPeriod = 10 * time.Millisecond

// Report is what Verify found.
type Report struct {
	// Schema is "vmmigrate.oracle/v1".
	Schema string `json:"schema"`
	// Guest is the name the guest was given.
	Guest string `json:"guest"`
	// OK is true when there is no finding and nothing was left unchecked.
	OK bool `json:"ok"`
	// Workload is what was running, in workload.Parse's form.
	Workload string `json:"workload"`
	// Seal is where the guest was when it stood still to be checked.
	Seal Seal `json:"seal"`
	// Pages, Tables and Blocks say how many were checked: pages of the region,
	// pages of both ledgers, blocks of all disks.
	Pages  uint64 `json:"pages_checked"`
	Tables uint64 `json:"tables_checked"`
	Blocks uint64 `json:"blocks_checked"`
	// Unwritten says how many of Blocks were never written by this guest.
	Unwritten uint64 `json:"blocks_unwritten"`
	// Unflushed says how many block writes were not flushed yet when checked.
	// A migration has to keep these as well.
	Unflushed uint64 `json:"blocks_unflushed"`
	// Disks say the same of each disk.
	Disks []DiskReport `json:"disks,omitempty"`
	// Took is how long the guest stood still for the check, by its own clock.
	Took time.Duration `json:"took_ns"`
	// Error says why the check is incomplete; empty otherwise.
	Error string `json:"error,omitempty"`
	// Findings are the errors.
	Findings Findings `json:"findings"`
}

// DiskReport is what Verify found of one disk.
type DiskReport struct {
	// Name is the guest's for it, such as "vda".
	Name string `json:"name"`
	// OK is true when all of its blocks were checked and none has a finding.
	OK bool `json:"ok"`
	// Blocks were checked. Of these, Unwritten were never written by this guest,
	// and Filled of those hold what they were filled with before it booted.
	Blocks    uint64 `json:"blocks_checked"`
	Unwritten uint64 `json:"blocks_unwritten"`
	Filled    uint64 `json:"blocks_filled"`
	// Unflushed says how many of its writes were not flushed yet.
	Unflushed uint64 `json:"blocks_unflushed"`
	// Findings is how many findings there are about it.
	Findings uint64 `json:"findings"`
}

// ReportSchema is the value of Report.Schema.
const ReportSchema = "vmmigrate.oracle/v1"

// Judge holds a guest's report against what a witness saw of that guest until
// the report was asked for, and returns what either of them found and what only
// both together show: a guest that is behind what it has told the witness
// before. Take the witness's report before calling Verify.
func Judge(r Report, w WitnessReport) Findings {
	var fs Findings
	fs.merge(r.Findings)
	fs.merge(w.Findings)
	if w.Answers == 0 {
		fs.Add(Finding{Kind: Unseen, Detail: "the witness never had an answer"})
		return fs
	}
	regress(&fs, w.High, r.Seal, "verify report")
	return fs
}

// regress adds what is lower in got than in floor, which was told earlier.
func regress(fs *Findings, floor, got Seal, where string) {
	if floor.Incarnation != got.Incarnation {
		fs.Add(Finding{Kind: Rebooted, Want: floor.Incarnation, Got: got.Incarnation, Detail: where})
		return
	}
	back := func(kind Kind, what string, floor, got uint64) {
		if got < floor {
			fs.Add(Finding{Kind: kind, Want: floor, Got: got, Detail: what + " in " + where})
		}
	}
	back(ReplayedTick, "ticks", floor.Ticks, got.Ticks)
	back(WentBack, "answers", floor.Answers, got.Answers)
	back(WentBack, "page writes", floor.Pages, got.Pages)
	back(WentBack, "block writes", floor.Blocks, got.Blocks)
	back(WentBack, "monotonic clock", uint64(floor.Mono), uint64(got.Mono))
	if floor.Ticks == got.Ticks && floor.TickChain != got.TickChain {
		fs.Add(Finding{Kind: TwoGuests, Index: got.Ticks, Want: floor.TickChain, Got: got.TickChain,
			Detail: "one tick with two histories in " + where})
	}
}
