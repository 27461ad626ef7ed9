package check

import (
	"fmt"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// Work is what the migration has to move, as far as it can be told before it begins: what the guest writes meanwhile comes on
// top.
type Work struct {
	// RAMBytes is all of the guest's RAM; of pages of zeros next to nothing is sent.
	RAMBytes int64 `json:"ram_bytes"`
	// Disks are those that travel.
	Disks []DiskWork `json:"disks,omitempty"`
	// Bytes is RAM and disks together.
	Bytes int64 `json:"bytes"`
	// LeastMS is how long that takes at the caps that the user gave; absent without one for each.
	LeastMS *float64 `json:"least_ms,omitempty"`
}

// DiskWork is one disk that travels.
type DiskWork struct {
	Name string `json:"name"`
	// Bytes is the disk's size; Moves is what its image holds at the source, or its size if that could not be told.
	Bytes int64 `json:"bytes"`
	Moves int64 `json:"moves_bytes"`
}

// workOf says what there is to move; nil without a guest.
func workOf(f Facts) *Work {
	g := guestOf(f)
	if g == nil {
		return nil
	}
	w := &Work{RAMBytes: g.Memory, Bytes: g.Memory}
	var disks int64
	for _, d := range g.Disks {
		if !copied(f.Params, d) {
			continue
		}
		w.Disks = append(w.Disks, DiskWork{Name: d.Target, Bytes: d.Capacity, Moves: d.Moves()})
		disks += d.Moves()
	}
	w.Bytes += disks
	w.LeastMS = leastTime(f.Params, g.Memory, disks)
	return w
}

// leastTime is what the caps make of it. Engines that move RAM and disks at the same time are as slow as the slower of both.
func leastTime(p migrate.Params, ram, disks int64) *float64 {
	if p.Bandwidth <= 0 {
		return nil
	}
	ms := float64(ram) / float64(p.Bandwidth) * 1000
	if disks > 0 {
		ms = max(ms, float64(disks)/float64(p.DiskCap())*1000)
	}
	return &ms
}

// text is one line for a person.
func (w *Work) text() string {
	parts := []string{size(w.RAMBytes) + " of RAM"}
	for _, d := range w.Disks {
		t := fmt.Sprintf("%s of disk %s", size(d.Moves), d.Name)
		if d.Moves < d.Bytes {
			t = fmt.Sprintf("%s of disk %s, which has %s", size(d.Moves), d.Name, size(d.Bytes))
		}
		parts = append(parts, t)
	}
	s := strings.Join(parts, ", ")
	if len(w.Disks) > 0 {
		s += "; " + size(w.Bytes) + " in all"
	}
	if w.LeastMS != nil {
		s += fmt.Sprintf("; %v at least at the caps that were given", (time.Duration(*w.LeastMS) * time.Millisecond).Round(100*time.Millisecond))
	}
	return s
}
