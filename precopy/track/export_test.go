//go:build linux

package track

// Held is held, for the tests that need the suite's child.
var Held = held
