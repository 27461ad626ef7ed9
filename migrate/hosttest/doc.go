// Package hosttest is the conformance suite of host drivers: what every driver owes the coordinator, as tests.
//
//	func TestT3Conformance(t *testing.T) {
//		hosttest.Run(t, func(t *testing.T) *hosttest.Pair { … }, hosttest.Abilities{Postcopy: true})
//	}
//
// The factory makes a fresh pair for every test: a guest that runs on one host and a second host that can take it in. It
// owns what it made and removes it by t.Cleanup; the suite closes connections that it opened itself by Pair.Dial.
// The suite imports no hypervisor and no lab: what only they can do, such as killing a process or cutting a link, is a
// function of the Pair. An ability that is not declared is not tested, and the test says so.
//
// The guest has to write to its memory all the time, so that a pre-copy capped at Pair.Slow does not converge
// before the suite lets it, and the copying of a second round is certain.
//
// While a migration runs a sentry asks both hosts without pause. Whenever the source runs the guest before and after
// the destination was seen running it, the test fails: that is the one thing no driver may ever allow.
//
// No test sleeps. Waiting is for a state that must come, bounded by the test's deadline, and no duration is asserted.
package hosttest
