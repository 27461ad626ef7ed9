// Package analysis and the packages below it say when to migrate a guest, and how, from what was seen of it: samples in, advice out.
// They need no hypervisor, have no clock of their own, and import nothing else of this module.
//
//	samples ──► sample ──► cycle ─────────► forecast ──────────► advise ──► when, how, and why
//	            series     periods, their   what a migration     policies; waits only
//	            with gaps  profiles, or     that starts then     if that is worth it,
//	                       "no cycle"       would cost           never past the deadline
//
// Beside them: sample/store keeps series in one SQLite file, page draws what was found, synth makes series with a known truth for
// tests and figures. Who samples running guests is migrate/sampler.
//
// Nothing here starts goroutines or keeps what it is given; an error leaves nothing half done but a store's own file, which SQLite
// keeps whole.
//
// The idea of waiting for the right part of a guest's workload cycle is that of Baruchi, Midorikawa and Sato (IEEE Latin America
// Transactions 13(4), 2015) and of ALMA (arXiv 1607.07846, 2016).
package analysis
