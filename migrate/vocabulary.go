package migrate

import "fmt"

// Phase is a stage of one migration. The zero value is invalid, so that zeroed memory never means something.
type Phase uint8

// The phases in the order in which a migration passes them. What fails in one is undone as the table of the package
// comment says.
const (
	// PhaseChecking looks at both hosts and changes nothing.
	PhaseChecking Phase = iota + 1
	// PhasePreparing starts the destination's QEMU, which waits.
	PhasePreparing
	// PhaseCopying moves disks and RAM while the guest runs on the source.
	PhaseCopying
	// PhaseSwitching is the pause: the guest stands still on the source and runs nowhere.
	PhaseSwitching
	// PhasePaging follows the commit: the destination owns the guest; what RAM is left behind is fetched.
	PhasePaging
	// PhaseFinishing releases the source and writes the report.
	PhaseFinishing
	// PhaseEnded is past the last step; nothing is left to do or to undo.
	PhaseEnded
	// PhaseWaiting comes before all of them where a migration waits for its moment. Nothing is held of either host, and the
	// state machine does not know it: only Progress tells of it.
	PhaseWaiting
)

var phaseNames = [...]string{"", "checking", "preparing", "copying", "switching", "paging", "finishing", "ended", "waiting"}

func (p Phase) String() string { return name(phaseNames[:], uint8(p), "phase") }

// MarshalText writes the name that the report and the journal use.
func (p Phase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText accepts exactly the names that MarshalText writes.
func (p *Phase) UnmarshalText(b []byte) error { return parse(phaseNames[:], b, (*uint8)(p), "phase") }

// Owner says which side may run the guest.
type Owner uint8

// Before the commit the source owns the guest, after it the destination. OwnerUnknown means that the answer to the
// switch was lost: nobody may be resumed until both ends have been asked.
const (
	OwnerSource Owner = iota + 1
	OwnerDestination
	OwnerUnknown
)

var ownerNames = [...]string{"", "source", "destination", "unknown"}

func (o Owner) String() string { return name(ownerNames[:], uint8(o), "owner") }

// MarshalText writes the name that the report and the journal use.
func (o Owner) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText accepts exactly the names that MarshalText writes.
func (o *Owner) UnmarshalText(b []byte) error { return parse(ownerNames[:], b, (*uint8)(o), "owner") }

// Outcome is how a migration ended, or how it stands when its coordinator stopped.
type Outcome uint8

// The outcomes of the report.
const (
	// OutcomeCompleted: the guest runs on the destination and the source is released.
	OutcomeCompleted Outcome = iota + 1
	// OutcomeCancelled: on request or by a time limit; the guest runs on the source.
	OutcomeCancelled
	// OutcomeFailed: the guest runs where Owner says.
	OutcomeFailed
	// OutcomePaused: past the commit the link broke; the destination owns the guest and waits for recovery.
	OutcomePaused
	// OutcomeUnknown: nobody may run the guest until an operator decides.
	OutcomeUnknown
)

var outcomeNames = [...]string{"", "completed", "cancelled", "failed", "paused", "unknown"}

func (o Outcome) String() string { return name(outcomeNames[:], uint8(o), "outcome") }

// MarshalText writes the name that the report and the journal use.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText accepts exactly the names that MarshalText writes.
func (o *Outcome) UnmarshalText(b []byte) error {
	return parse(outcomeNames[:], b, (*uint8)(o), "outcome")
}

// Strategy is the way in which RAM is moved.
type Strategy string

// The strategies a user can name; StrategyAuto is resolved to one of the others before anything is touched.
const (
	StrategyAuto     Strategy = "auto"
	StrategyPrecopy  Strategy = "precopy"
	StrategyPostcopy Strategy = "postcopy"
	StrategyHybrid   Strategy = "hybrid"
)

// ParseStrategy accepts the names of the constants.
func ParseStrategy(s string) (Strategy, error) {
	switch v := Strategy(s); v {
	case StrategyAuto, StrategyPrecopy, StrategyPostcopy, StrategyHybrid:
		return v, nil
	}
	return "", fmt.Errorf("strategy %q is not one of auto, precopy, postcopy, hybrid", s)
}

// Postcopy tells whether the strategy may leave RAM to be fetched after the switch.
func (s Strategy) Postcopy() bool { return s == StrategyPostcopy || s == StrategyHybrid }

// EngineName names who moves the RAM.
type EngineName string

// The engines a user can name; EngineAuto is resolved before anything is touched.
const (
	EngineAuto   EngineName = "auto"
	EngineNative EngineName = "native"
	EngineNBD    EngineName = "nbd"
)

// ParseEngine accepts the names of the constants.
func ParseEngine(s string) (EngineName, error) {
	switch v := EngineName(s); v {
	case EngineAuto, EngineNative, EngineNBD:
		return v, nil
	}
	return "", fmt.Errorf("engine %q is not one of auto, native, nbd", s)
}

// Side names one end of a migration in errors and findings.
type Side string

// The two ends, and the place from which both are driven.
const (
	SideSource      Side = "source"
	SideDestination Side = "destination"
	SideCoordinator Side = "coordinator"
)

func name(names []string, v uint8, what string) string {
	if int(v) < len(names) && v != 0 {
		return names[v]
	}
	return fmt.Sprintf("%s(%d)", what, v)
}

func parse(names []string, b []byte, v *uint8, what string) error {
	for i, n := range names {
		if i > 0 && n == string(b) {
			*v = uint8(i)
			return nil
		}
	}
	return fmt.Errorf("%q is no %s", b, what)
}
