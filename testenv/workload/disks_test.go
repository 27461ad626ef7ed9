package workload

import (
	"testing"
	"time"
)

func TestBlocksOfAllDisksAreWritten(t *testing.T) {
	for _, tt := range []struct {
		text string
		last []uint64 // of each disk, the number of blocks from its first one on that are written
	}{
		{"blockio:size=40KiB,rate=max", []uint64{10, 4, 10}},
		{"mixed:size=40KiB,rate=0,writes=max", []uint64{20, 4, 30}},
	} {
		s, err := Parse(tt.text)
		if err != nil {
			t.Fatal(err)
		}
		p, err := NewPlan(s, 10, []uint64{20, 4, 30}, 1)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[uint64]bool{}
		for now := range 20 {
			p.Advance(time.Duration(now) * time.Millisecond)
			for op, ok := p.Next(); ok; op, ok = p.Next() {
				if op.Target == Block {
					seen[op.Index] = true
				}
			}
		}
		want, first := 0, []uint64{0, 20, 24}
		for d, n := range tt.last {
			want += int(n)
			for i := range n {
				if !seen[first[d]+i] {
					t.Errorf("%s: block %d of disk %d is never written", tt.text, i, d)
				}
			}
		}
		if len(seen) != want {
			t.Errorf("%s: %d blocks are written, want %d", tt.text, len(seen), want)
		}
	}
}
