// Package agenttest has an agent that moves nothing, and the suite that shows that an agent behaves the same however it is
// reached.
//
//	Conformance(t, reach) ── reach(Fake) ──> agent.Agent ──> … ──> Fake
//
// A Fake notes what it is asked, answers as it is told to, and can be parked in any of its methods. It owns no goroutine.
// The suite waits on events only, never on a clock.
package agenttest
