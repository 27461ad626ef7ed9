//go:build race

package postcopy_test

// raced says that the race detector is on, which allocates by itself.
const raced = true
