package hosttest

import (
	"context"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// Driver is everything that a host driver has to be.
type Driver interface {
	migrate.Source
	migrate.Destination
	migrate.Custodian
}

// Pair is a guest that runs on one host, and another host that can take it in.
type Pair struct {
	// Source runs the guest; Dest does not know it, or has a process waiting for it.
	Source, Dest Driver
	// Name is the guest's, on both hosts.
	Name string
	// Params are what every migration of this pair needs, such as addresses. Strategy, bandwidths and pauses are set
	// by the suite.
	Params migrate.Params
	// Slow is a bandwidth in bytes per second at which one round over the guest takes some seconds.
	Slow int64
	// Verify tells whether the memory of the guest is whole on the side where it is, running or paused.
	Verify func(ctx context.Context, side migrate.Side) error

	// Dial opens another connection to one end, which the suite closes. Nil: not able.
	Dial func(ctx context.Context, side migrate.Side) (Driver, error)
	// KillDest ends the destination's process as a crash would. Nil: not able.
	KillDest func()
	// Route sends RAM through a link that Cut breaks and Heal mends. All three are nil: not able.
	Route     func(migrate.Ticket) migrate.Ticket
	Cut, Heal func()
	// PauseGuest stops the guest on the source as its user would. Nil: not able.
	PauseGuest func(ctx context.Context) error
}

// Factory makes a fresh pair. It fails or skips the test where it cannot.
type Factory func(t *testing.T) *Pair

// Abilities are what a driver or its test bed may lack.
type Abilities struct {
	// Postcopy: this machine lets QEMU use userfaultfd.
	Postcopy bool
	// Recovery: a broken post-copy can be recovered, and pairs have a link that can be cut.
	Recovery bool
	// Stamps: events carry the host's own time, and both hosts have one clock.
	Stamps bool
	// Rounds: events tell each round of a pre-copy.
	Rounds bool
	// Limit bounds one test; 0 means one minute.
	Limit time.Duration
}

// Run runs the suite, each test with a pair of its own.
func Run(t *testing.T, f Factory, a Abilities) {
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			if missing := c.missing(a); missing != "" {
				t.Skipf("this driver's test bed does not declare the ability %s", missing)
			}
			limit := a.Limit
			if limit == 0 {
				limit = time.Minute
			}
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			c.run(newRun(ctx, t, f(t), a))
		})
	}
}

// testCase is one test of the suite.
type testCase struct {
	name     string
	run      func(*run)
	postcopy bool
	recovery bool
}

// missing names the ability that the case needs and a lacks.
func (c testCase) missing(a Abilities) string {
	switch {
	case c.postcopy && !a.Postcopy:
		return "Postcopy"
	case c.recovery && !a.Recovery:
		return "Recovery"
	}
	return ""
}

func cases() []testCase {
	return []testCase{
		{name: "FactsAreSane", run: factsAreSane},
		{name: "UnknownDomain", run: unknownDomain},
		{name: "StatsBeforeDuringAfter", run: statsBeforeDuringAfter},
		{name: "CloseTwice", run: closeTwice},
		{name: "Precopy", run: precopy},
		{name: "PrecopyOverSeveralRounds", run: severalRounds},
		{name: "Postcopy", run: postcopy, postcopy: true},
		{name: "Hybrid", run: hybrid, postcopy: true},
		{name: "SuspendAtTheDestination", run: suspend},
		{name: "APausedGuestStaysPaused", run: pausedGuest},
		{name: "EventsInOrder", run: eventsInOrder},
		{name: "StateInEachSituation", run: stateInEachSituation},
		{name: "TuneMidFlight", run: tuneMidFlight},
		{name: "CancelInPerform", run: cancelInPerform},
		{name: "CancelWhenNothingRuns", run: cancelIdle},
		{name: "CancelAfterStartPostcopy", run: cancelAfterStartPostcopy, postcopy: true},
		{name: "DestinationDiesInPerform", run: destinationDies},
		{name: "PrepareFails", run: prepareFails},
		{name: "NotLanded", run: notLanded},
		{name: "AgainAfterNotLanded", run: secondBegin},
		{name: "ContextEnds", run: contextEnds},
		{name: "ContextEndsInPerform", run: contextEndsInPerform},
		{name: "CustodianRefuses", run: custodianRefuses},
		{name: "CustodianResumes", run: custodianResumes},
		{name: "CustodianDiscards", run: custodianDiscards},
		{name: "CustodianReleases", run: custodianReleases},
		{name: "CustodianAfterTheSwitch", run: custodianAfterSwitch},
		{name: "PostcopyRecovery", run: recovery, postcopy: true, recovery: true},
	}
}
