package postcopy

import "time"

// Trace hears of every fault that needs the source, in the order in which they were read, for a later replay. At is the
// time since the pager was made. It is called from the thread that serves faults, by one goroutine at a time, and must
// not wait.
type Trace interface {
	Fault(block, page int, at time.Duration)
}
