package migrate

import (
	"fmt"
	"testing"
)

// TestPlanMuteDestination: a destination's QEMU that lives and says nothing may run the guest any moment once the commit is
// written. Nothing has the source run it then, and nobody is offered to.
func TestPlanMuteDestination(t *testing.T) {
	for _, st := range planStandings {
		for _, s := range planSources {
			for flags := range 1 << 6 {
				e := st.evidence(s, "silent")
				if e.Owner == OwnerSource && !e.Landed { // it was told nothing
					continue
				}
				e.DestErr = fmt.Errorf("%w: %w", ErrLinkLost, ErrMute)
				e.Stale, e.Live, e.Suspend, e.WasPaused = flags&1 != 0, flags&2 != 0, flags&4 != 0, flags&8 != 0
				e.Postcopy, e.Settled = flags&16 != 0, flags&32 != 0
				p := Decide(e)
				if p.Offers(ChoiceSource) || p.Kind == PlanResumeSource || p.Kind == PlanCancelJob && s != "running,job" || p.Owner == OwnerSource {
					t.Errorf("%s, source %s, %06b: %s, owner %s, choices %v: %s", st.name, s, flags, p.Kind, p.Owner, p.Choices, p.Why)
				}
			}
		}
	}
}
