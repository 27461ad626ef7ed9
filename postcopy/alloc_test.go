//go:build linux

package postcopy_test

import (
	"context"
	"runtime"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

// Serving a fault allocates nothing, whether the reader serves it or a worker.
func TestT1FaultsAllocateNothing(t *testing.T) {
	for _, near := range []bool{true, false} {
		const pages = 4096
		c := newChild(t, pages, page, true)
		data := make([]byte, pages*page)
		for n := range pages {
			fill(data[n*page:(n+1)*page], 0, n)
		}
		src := &nearFile{ReaderAt: strings.NewReader(string(data)), far: !near}
		cfg := c.config(c.fault, nil)
		plan, err := prepage.New("none", c.blocks, cfg.Missing, nil)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Demand, cfg.Bulk, cfg.Prepager, cfg.Events, cfg.Hold = src, src, plan, true, true
		p := c.pager(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		run := make(chan error, 1)
		go func() { run <- p.Run(ctx) }()
		c.tell("zero 0") // all is under way, and memory that is kept has been made
		c.hear("zero not zeros")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		c.tell("walk 2 1")
		c.hear("walk done")
		runtime.ReadMemStats(&after)
		if n := after.Mallocs - before.Mallocs; n > pages/10 && !raced {
			t.Errorf("near=%t: %d allocations for %d faults", near, n, pages)
		}
		cancel()
		<-run
	}
}
