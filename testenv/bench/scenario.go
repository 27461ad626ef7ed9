package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/testenv"
	"github.com/vmmigrate/vmmigrate/testenv/link"
	"github.com/vmmigrate/vmmigrate/testenv/workload"
)

// ScenarioSchema is the value of Scenario.Schema.
const ScenarioSchema = "vmmigrate.scenario/v1"

// Bounds of a scenario.
const (
	maxScenario    = 256 << 10 // bytes of a file
	maxRows        = 64
	maxCells       = 64
	maxRepetitions = 1000
	maxName        = 60
)

// ErrScenario is wrapped by every error about what a scenario says.
var ErrScenario = errors.New("scenario")

// The values of Scenario.Hosts.
const (
	// Libvirt is hosts with a libvirtd each.
	Libvirt = "libvirt"
	// Bare is hosts without: QEMU alone, reached by its monitor.
	Bare = "bare"
)

// Scenario is what a benchmark does, as its file says.
type Scenario struct {
	// Schema is ScenarioSchema.
	Schema string `json:"schema"`
	// Name is short, for tables; Title is a line for people.
	Name  string `json:"name"`
	Title string `json:"title,omitempty"`
	// Hosts is Libvirt (the default) or Bare.
	Hosts string `json:"hosts,omitempty"`
	// Guest is the guest that moves there and back.
	Guest Guest `json:"guest"`
	// Workloads are what the guest does, one after the other, as "lab guest
	// --workload" has it; all within the memory of the first one's size or less.
	Workloads []string `json:"workloads"`
	// Links are what the hosts' links are like, as "lab up --link" has it; empty is
	// "unlimited". Each workload runs on each link.
	Links []string `json:"links,omitempty"`
	// Rows are the ways of migrating that are compared.
	Rows []Row `json:"rows"`
	// Repetitions is how often each row runs in each workload and link; 0 is 3.
	Repetitions int `json:"repetitions,omitempty"`
	// Seed draws the order; 0 is 1.
	Seed uint64 `json:"seed,omitempty"`
	// Watch, if any, is how long what the guest writes is recorded before the first run with a workload, so that the program
	// forecasts its runs, which are then held against what came. The runs of a workload and link then follow each other, and
	// know of each other alone.
	Watch Duration `json:"watch,omitempty"`
	// Around is how long the guest is watched before and after each migration; empty
	// is 1s. Limit bounds one migration; empty is 2m.
	Around Duration `json:"around,omitempty"`
	Limit  Duration `json:"limit,omitempty"`
}

// Guest is the guest of a scenario. Sizes are as "512MiB".
type Guest struct {
	Memory string `json:"memory,omitempty"`
	CPUs   int    `json:"cpus,omitempty"`
	// Backing is shared (the default, without which only native rows run) or private.
	Backing string `json:"backing,omitempty"`
	Pages   string `json:"pages,omitempty"`
	NUMA    int    `json:"numa,omitempty"`
	Accel   string `json:"accel,omitempty"`
	// Disks are as in "lab guest --disk". With any, rows may copy them.
	Disks []string `json:"disks,omitempty"`
}

// Row is one way of migrating: options of "vmmigrate migrate". What is empty is left
// to the program.
type Row struct {
	Name     string `json:"name"`
	Engine   string `json:"engine"`
	Strategy string `json:"strategy"`
	Prepage  string `json:"prepage,omitempty"`
	// MaxDowntime is QEMU's downtime limit, Parallel the number of multifd channels,
	// Preempt post-copy-preempt.
	MaxDowntime Duration `json:"max_downtime,omitempty"`
	Parallel    int      `json:"parallel,omitempty"`
	Preempt     bool     `json:"preempt,omitempty"`
	// Diskless rows move a guest like the other, but without disks. Its workload is
	// the same without the writes to disks.
	Diskless bool `json:"diskless,omitempty"`
	// Within has each run begin after a time that is drawn from 0 to this one.
	Within Duration `json:"within,omitempty"`
	// Advised tells that the program chooses the moment (--when cycle in Args): it is held against a row with Within.
	Advised bool `json:"advised,omitempty"`
	// Needs names an option of "vmmigrate migrate" without which the row is left out.
	Needs string `json:"needs,omitempty"`
	// Args are further arguments, as they are.
	Args []string `json:"args,omitempty"`
	// Stay makes each run a way back. The guest goes over first, by the same command, where nothing is left of an earlier
	// stay, and does this there, one after the other. What is measured is how it returns.
	Stay []Work `json:"stay,omitempty"`
}

// Work is what a guest does during a stay: a workload, until it has written that much by it.
type Work struct {
	Workload string `json:"workload"`
	Pages    uint64 `json:"pages,omitempty"`
	Blocks   uint64 `json:"blocks,omitempty"`
}

// maxWork bounds the pages and blocks of one Work.
const maxWork = 1 << 24

func (w Work) check() error {
	if _, err := workload.Parse(w.Workload); err != nil {
		return err
	}
	if w.Pages > maxWork || w.Blocks > maxWork || w.Pages+w.Blocks == 0 {
		return fmt.Errorf("%s: %d pages and %d blocks: want 1 to %d", w.Workload, w.Pages, w.Blocks, maxWork)
	}
	return nil
}

// Native reports whether QEMU moves the RAM in this row.
func (r Row) Native() bool { return r.Engine == "native" }

// Duration is a time that JSON writes as "10ms".
type Duration time.Duration

// UnmarshalJSON reads "10ms".
func (d *Duration) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	parsed, err := time.ParseDuration(text)
	if err != nil || parsed < 0 || parsed > time.Hour {
		return fmt.Errorf("%q is no time such as 10ms, at most 1h", text)
	}
	*d = Duration(parsed)
	return nil
}

// MarshalJSON writes "10ms".
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// Parse reads a scenario and fills in the defaults. Unknown fields, anything behind
// the object and values out of bounds are errors that wrap ErrScenario.
func Parse(data []byte) (Scenario, error) {
	var s Scenario
	if len(data) > maxScenario {
		return s, fmt.Errorf("%w: %d bytes, at most %d are read", ErrScenario, len(data), maxScenario)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return Scenario{}, fmt.Errorf("%w: %w", ErrScenario, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Scenario{}, fmt.Errorf("%w: there is something behind its end", ErrScenario)
	}
	s = s.filled()
	if err := s.check(); err != nil {
		return Scenario{}, fmt.Errorf("%w %s: %w", ErrScenario, s.Name, err)
	}
	return s, nil
}

// filled puts in the defaults.
func (s Scenario) filled() Scenario {
	set := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	set(&s.Hosts, Libvirt)
	set(&s.Guest.Memory, "512MiB")
	set(&s.Guest.Backing, testenv.BackingShared)
	set(&s.Guest.Pages, "4KiB")
	set(&s.Guest.Accel, testenv.AccelAuto)
	s.Guest.CPUs = max(s.Guest.CPUs, 1)
	if len(s.Links) == 0 {
		s.Links = []string{"unlimited"}
	}
	if s.Repetitions == 0 {
		s.Repetitions = 3
	}
	if s.Seed == 0 {
		s.Seed = 1
	}
	if s.Around == 0 {
		s.Around = Duration(time.Second)
	}
	if s.Limit == 0 {
		s.Limit = Duration(2 * time.Minute)
	}
	return s
}

func (s Scenario) check() error {
	switch cells := len(s.Workloads) * len(s.Links); {
	case s.Schema != ScenarioSchema:
		return fmt.Errorf("schema %q, want %q", s.Schema, ScenarioSchema)
	case !plainName(s.Name):
		return fmt.Errorf("name %q: want 1 to %d letters, digits, dots and dashes", s.Name, maxName)
	case s.Hosts != Libvirt && s.Hosts != Bare:
		return fmt.Errorf("hosts %q are neither %s nor %s", s.Hosts, Libvirt, Bare)
	case cells < 1 || cells > maxCells:
		return fmt.Errorf("%d workloads on %d links: want 1 to %d pairs", len(s.Workloads), len(s.Links), maxCells)
	case s.Repetitions < 1 || s.Repetitions > maxRepetitions:
		return fmt.Errorf("%d repetitions: want 1 to %d", s.Repetitions, maxRepetitions)
	}
	for _, w := range s.Workloads {
		if _, err := workload.Parse(w); err != nil {
			return err
		}
	}
	for _, l := range s.Links {
		if _, err := link.ParseSpec(l); err != nil {
			return err
		}
	}
	if _, err := s.guest("x"); err != nil {
		return err
	}
	return s.checkRows()
}

func (s Scenario) checkRows() error {
	if len(s.Rows) < 1 || len(s.Rows) > maxRows {
		return fmt.Errorf("%d rows: want 1 to %d", len(s.Rows), maxRows)
	}
	seen := map[string]bool{}
	for _, r := range s.Rows {
		switch {
		case r.Name == "" || len(r.Name) > maxName || strings.ContainsFunc(r.Name, func(c rune) bool { return c < ' ' }):
			return fmt.Errorf("row %q: a name has 1 to %d characters", r.Name, maxName)
		case seen[r.Name]:
			return fmt.Errorf("row %q is there twice", r.Name)
		case (r.Engine == Virsh || r.Engine == NBDCopy) && len(s.Guest.Disks) > 0 && s.Hosts == Libvirt:
		case r.Engine != "native" && r.Engine != "nbd":
			return fmt.Errorf("row %q: engine %q is neither native nor nbd", r.Name, r.Engine)
		case r.Strategy != "precopy" && r.Strategy != "postcopy" && r.Strategy != "hybrid":
			return fmt.Errorf("row %q: strategy %q is none of precopy, postcopy, hybrid", r.Name, r.Strategy)
		case r.Parallel < 0 || r.Parallel > 255:
			return fmt.Errorf("row %q: %d channels", r.Name, r.Parallel)
		}
		seen[r.Name] = true
		for _, w := range r.Stay {
			if err := w.check(); err != nil {
				return fmt.Errorf("row %q: %w", r.Name, err)
			}
		}
	}
	return nil
}

// plainName is for what may become part of a file's name.
func plainName(s string) bool {
	odd := func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.')
	}
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, odd)
}

// guest is the guest's configuration in the lab, for the first workload.
func (s Scenario) guest(name string) (testenv.GuestConfig, error) {
	g := testenv.GuestConfig{
		Name: name, CPUs: s.Guest.CPUs, Backing: s.Guest.Backing, NUMA: s.Guest.NUMA, Accel: s.Guest.Accel,
		Workload: s.largest(), Seed: s.Seed,
	}
	var err error
	if g.Memory, err = testenv.ParseSize(s.Guest.Memory); err != nil {
		return g, err
	}
	if g.PageSize, err = testenv.ParseSize(s.Guest.Pages); err != nil {
		return g, err
	}
	for _, text := range s.Guest.Disks {
		d, err := testenv.ParseDisk(text)
		if err != nil {
			return g, err
		}
		g.Disks = append(g.Disks, d)
	}
	return g, g.Check()
}

// diskless is that guest without disks.
func diskless(g testenv.GuestConfig) testenv.GuestConfig {
	g.Name, g.Disks, g.Workload = g.Name+"-diskless", nil, offDisk(g.Workload)
	return g
}

// offDisk is a workload without its writes to disks.
func offDisk(text string) string {
	w, err := workload.Parse(text)
	switch {
	case err != nil:
		return text // it was checked
	case w.Kind == workload.Mixed:
		w.Kind, w.Writes = workload.HotSet, 0
	case w.Kind == workload.BlockIO:
		w = workload.Spec{Kind: workload.Idle, Size: w.Memory()}
	}
	return w.String()
}

// largest is the workload with the largest region: the guest sets that aside when
// it boots.
func (s Scenario) largest() string {
	best, size := "", int64(-1)
	for _, text := range s.Workloads {
		if w, err := workload.Parse(text); err == nil && w.Memory() > size {
			best, size = text, w.Memory()
		}
	}
	return best
}
