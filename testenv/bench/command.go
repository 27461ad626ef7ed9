package bench

import (
	"strconv"
	"time"
)

// arguments are those of "vmmigrate migrate" for the row, but for the hosts.
func (r Row) arguments() []string {
	args := []string{"--engine", r.Engine, "--strategy", r.Strategy}
	if r.Prepage != "" {
		args = append(args, "--prepage", r.Prepage)
	}
	if r.MaxDowntime != 0 {
		args = append(args, "--max-downtime", time.Duration(r.MaxDowntime).String())
	}
	if r.Parallel > 0 {
		args = append(args, "--parallel-connections", strconv.Itoa(r.Parallel))
	}
	if r.Preempt {
		args = append(args, "--postcopy-preempt")
	}
	return append(args, r.Args...)
}
