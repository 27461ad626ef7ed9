package workload

import (
	"errors"
	"fmt"
	"time"
)

// Kind is the shape of a workload. The zero value is not a workload.
type Kind uint8

// The kinds, as the package documentation describes them.
const (
	Invalid Kind = iota
	Idle
	Uniform
	HotSet
	Sequential
	Cycle
	BlockIO
	Mixed
)

var kindNames = [...]string{"invalid", "idle", "uniform", "hotset", "sequential", "cycle", "blockio", "mixed"}

// String is the word that Parse reads.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

const (
	// PageSize is the size of a page and of a disk block, in bytes.
	PageSize = 4096
	// MaxSize bounds a region, in bytes.
	MaxSize = 1 << 40
	// MaxRate bounds a rate, in writes a second; "max" means this.
	MaxRate = 10_000_000
	// MaxPhases bounds the phases of a cycle.
	MaxPhases = 64
	// MaxSpec bounds the text of a workload, in bytes.
	MaxSpec = 1024

	defaultSize      = 128 << 20
	defaultRate      = 5000
	defaultBlockRate = 200
	defaultWrites    = 50
	defaultHot       = 0.1
	defaultBias      = 0.9
	defaultPhase     = 10 * time.Second
	maxPhaseLength   = 24 * time.Hour
)

// ErrSpec is wrapped by every error of Parse and Spec.Validate.
var ErrSpec = errors.New("workload")

// Phase is one part of a cycle.
type Phase struct {
	// Rate is in pages a second.
	Rate uint64
	// Length is how long the phase lasts; over zero.
	Length time.Duration
}

// Spec is a workload with every value filled in.
type Spec struct {
	Kind Kind
	// Size is the length of the written region in bytes, whole pages. It is
	// memory, and for BlockIO disk.
	Size int64
	// Rate is pages a second, for BlockIO blocks a second.
	Rate uint64
	// Hot is the share of the region that is the hot set (HotSet, Mixed) or
	// that is written at all (Cycle).
	Hot float64
	// Bias is the share of the writes that goes to the hot set.
	Bias float64
	// Writes is blocks a second beside the pages (Mixed).
	Writes uint64
	// Phases are the parts of a Cycle, in order.
	Phases []Phase
}

// Memory is the length of the memory region in bytes that a guest needs for
// the workload. A guest whose workload is only on disk keeps a small region,
// so that its memory is checked too.
func (s Spec) Memory() int64 {
	if s.Kind == BlockIO {
		return 16 << 20
	}
	return s.Size
}

// keysOf says which keys a kind takes.
func keysOf(k Kind) []string {
	switch k {
	case Idle:
		return []string{"size"}
	case HotSet:
		return []string{"size", "rate", "hot", "bias"}
	case Cycle:
		return []string{"size", "rate", "phases", "hot"}
	case Mixed:
		return []string{"size", "rate", "hot", "bias", "writes"}
	default:
		return []string{"size", "rate"}
	}
}

// defaults returns a spec of kind k with the documented values.
func defaults(k Kind) Spec {
	s := Spec{Kind: k, Size: defaultSize, Rate: defaultRate}
	switch k {
	case Idle:
		s.Rate = 0
	case HotSet:
		s.Hot, s.Bias = defaultHot, defaultBias
	case Cycle:
		s.Hot = 1
	case BlockIO:
		s.Rate = defaultBlockRate
	case Mixed:
		s.Hot, s.Bias, s.Writes = defaultHot, defaultBias, defaultWrites
	}
	return s
}

// Validate says why a spec cannot be planned, or nil. A value that the kind
// does not take has to be zero.
func (s Spec) Validate() error {
	if s.Kind <= Invalid || s.Kind > Mixed {
		return fmt.Errorf("%w: unknown kind %v", ErrSpec, s.Kind)
	}
	if s.Size < PageSize || s.Size > MaxSize || s.Size%PageSize != 0 {
		return fmt.Errorf("%w %v: size=%d: must be whole pages of %d bytes, from one page to %d bytes",
			ErrSpec, s.Kind, s.Size, PageSize, int64(MaxSize))
	}
	if s.Rate > MaxRate || s.Writes > MaxRate {
		return fmt.Errorf("%w %v: rate over %d a second", ErrSpec, s.Kind, MaxRate)
	}
	if err := s.validShares(); err != nil {
		return err
	}
	return s.validPhases()
}

func (s Spec) validShares() error {
	takesHot := s.Kind == HotSet || s.Kind == Mixed || s.Kind == Cycle
	if takesHot && !(s.Hot > 0 && s.Hot <= 1) {
		return fmt.Errorf("%w %v: hot=%v: must be over 0 and at most 1", ErrSpec, s.Kind, s.Hot)
	}
	if takesHot && !(s.Bias >= 0 && s.Bias <= 1) {
		return fmt.Errorf("%w %v: bias=%v: must be 0 to 1", ErrSpec, s.Kind, s.Bias)
	}
	if !takesHot && (s.Hot != 0 || s.Bias != 0) {
		return fmt.Errorf("%w %v: takes no hot set", ErrSpec, s.Kind)
	}
	if s.Kind != Mixed && s.Writes != 0 {
		return fmt.Errorf("%w %v: takes no writes", ErrSpec, s.Kind)
	}
	return nil
}

func (s Spec) validPhases() error {
	if s.Kind != Cycle {
		if len(s.Phases) != 0 {
			return fmt.Errorf("%w %v: takes no phases", ErrSpec, s.Kind)
		}
		return nil
	}
	if len(s.Phases) == 0 || len(s.Phases) > MaxPhases {
		return fmt.Errorf("%w cycle: %d phases: must be 1 to %d", ErrSpec, len(s.Phases), MaxPhases)
	}
	for i, p := range s.Phases {
		if p.Length <= 0 || p.Length > maxPhaseLength || p.Rate > MaxRate {
			return fmt.Errorf("%w cycle: phase %d: %d@%v: length must be over 0 and at most %v, rate at most %d",
				ErrSpec, i+1, p.Rate, p.Length, maxPhaseLength, MaxRate)
		}
	}
	return nil
}
