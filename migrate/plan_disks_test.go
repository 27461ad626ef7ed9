package migrate

import (
	"strings"
	"testing"
)

// A guest that ended at the destination before its disks had come is started on neither host, and nothing of it is released.
func TestDecideDisksLeft(t *testing.T) {
	gone := Evidence{Owner: OwnerDestination, Landed: true, Fetching: true, Disks: true, Ends: Ends{Source: &GuestState{Run: RunMigrated}}}
	for name, dest := range map[string]*GuestState{"gone": nil, "stopped": {Run: RunStopped}, "crashed": {Run: RunCrashed}} {
		e := gone
		e.Ends.Dest = dest
		p := Decide(e)
		if p.Kind != PlanUnknown || p.Owner != OwnerDestination || len(p.Choices) != 1 || p.Choices[0] != ChoiceDestination || !strings.Contains(p.Why, "overlays") {
			t.Errorf("%s: %+v", name, p)
		}
		e.Disks = false
		if p := Decide(e); strings.Contains(p.Why, "overlays") {
			t.Errorf("%s, without disks: %+v", name, p)
		}
	}
}
