// Package migratetest has stand-ins for everything that a coordinator drives: two hosts with one guest, an engine and a
// journal. They keep their promises unless a test tells them otherwise, and they notice when both sides run the guest.
//
//	w := migratetest.NewWorld("web")
//	w.Hook(func(c *migratetest.Call) error { ... })   // fail, lose an answer, block a step
//	c, err := migrate.New(migrate.Config{Journal: w.Journal, Dial: w.Dial, Engine: w.EngineByName})
//	report, err := c.Migrate(ctx, w.Request(migrate.Params{Strategy: migrate.StrategyPrecopy}))
//	if err := w.Err(); err != nil { ... }             // both sides ran, or the commit came too late
//
// Nothing here starts a goroutine, sleeps, or looks at a clock beyond time.Now for stamps, so it works inside
// testing/synctest. A World is safe for use by several goroutines. It talks to no hypervisor and checks no parameters:
// what drivers do with them is their conformance suite's to test.
package migratetest
