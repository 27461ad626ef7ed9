package check

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// TestWork: the disks that travel count with what their images hold, and the caps with what each is for.
func TestWork(t *testing.T) {
	f := goodFacts()
	g := *f.Guest.Value
	g.Memory = 1 << 30
	g.Disks = []migrate.Disk{
		{Target: "vda", Path: "/a", Capacity: 10 << 30, Used: 2 << 30},
		{Target: "vdb", Path: "/b", Capacity: 1 << 30},
		{Target: "sr0", Path: "/c", Capacity: 5 << 30, CDROM: true},
	}
	f.Guest = Known(&g)
	ms := func(v float64) *float64 { return &v }
	disks := []DiskWork{{"vda", 10 << 30, 2 << 30}, {"vdb", 1 << 30, 1 << 30}}
	for name, c := range map[string]struct {
		p    migrate.Params
		want Work
		text string
	}{
		"no disks": {migrate.Params{}, Work{RAMBytes: 1 << 30, Bytes: 1 << 30}, "1 GiB of RAM"},
		"disks": {migrate.Params{CopyStorage: migrate.CopyAll}, Work{RAMBytes: 1 << 30, Disks: disks, Bytes: 4 << 30},
			"1 GiB of RAM, 2 GiB of disk vda, which has 10 GiB, 1 GiB of disk vdb; 4 GiB in all"},
		"capped": {migrate.Params{CopyStorage: migrate.CopyAll, Bandwidth: 1 << 29, BandwidthDisk: 1 << 28},
			Work{RAMBytes: 1 << 30, Disks: disks, Bytes: 4 << 30, LeastMS: ms(12000)}, "12s at least at the caps"},
		"one cap": {migrate.Params{CopyStorage: migrate.CopyAll, BandwidthDisk: 1 << 28}, Work{RAMBytes: 1 << 30, Disks: disks, Bytes: 4 << 30}, "in all"},
	} {
		f.Params = c.p
		got := workOf(f)
		if d := cmp.Diff(&c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		if !strings.Contains(got.text(), c.text) {
			t.Errorf("%s: %s", name, got.text())
		}
	}
	f.Params = migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll}
	r := Conclude(f)
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil || !strings.Contains(b.String(), "moves: 1 GiB of RAM, 2 GiB of disk vda") {
		t.Errorf("%v in\n%s", err, b.String())
	}
	raw, err := json.Marshal(r)
	if err != nil || !bytes.Contains(raw, []byte(`"work":{"ram_bytes":1073741824,"disks":[{"name":"vda","bytes":10737418240,"moves_bytes":2147483648}`)) {
		t.Errorf("%v in %s", err, raw)
	}
	f.Guest = Answer[*migrate.DomainFacts]{}
	if workOf(f) != nil {
		t.Error("work without a guest")
	}
}
