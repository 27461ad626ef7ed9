// Package forecast says what a migration that starts at a given time would cost: how long it takes, how long the guest stands
// still, how many bytes travel, and how long the guest runs slowly.
//
//	series, windows, cycles ──► Curve ──► Estimate (rounds played through) ──► Correct (past runs) ──► Cost
//
// What decides is the curve of distinct bytes that the guest writes within a window, by the window's begin and its length. It is
// far from linear in the length, since a page that is written twice travels once: windows of several lengths are measured, and
// lengths between are interpolated with both on logarithmic scales. Where only rates are known, the share of a second half's
// pages that are new is assumed (Sources.Fresh), and ranges are wider for it.
//
// Ranges mean that about 8 in 10 fall inside by what was seen of the guest; Correct widens or narrows them by what past runs took,
// so that 9 in 10 do. All of it is pure: the same values give the same forecast, and there is no clock inside. A Curve may be read
// by several goroutines at once.
package forecast
