package oracle

import (
	"io"
	"slices"
	"testing"
)

const fillExtents = 4

// filledLab has a disk of 4 MiB, of which 2 are filled, and one without any.
func filledLab(t *testing.T) (*Keeper, []*memDisk) {
	t.Helper()
	mem := []*memDisk{{data: make([]byte, fillExtents*FillExtent)}, {data: make([]byte, 100*PageSize)}}
	size := int64(len(mem[0].data))
	if err := FillDisk(sparse{mem[0]}, size, size/2, 5, 0); err != nil {
		t.Fatal(err)
	}
	k, err := NewKeeper(KeeperConfig{Guest: "lab", Incarnation: 77, Seed: 5, Region: make([]byte, PageSize), Disks: []KeptDisk{
		{Name: "vda", Device: mem[0], Size: size, Used: size / 2},
		{Name: "vdb", Device: mem[1], Size: int64(len(mem[1].data))},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return k, mem
}

// sparse fails where zeros are written: they should be holes.
type sparse struct{ *memDisk }

func (s sparse) WriteAt(b []byte, off int64) (int, error) {
	if zero(b[:PageSize]) {
		return 0, io.ErrShortWrite
	}
	return s.memDisk.WriteAt(b, off)
}

func at(d *memDisk, block int) []byte { return d.data[block*PageSize:][:PageSize] }

func TestHalfOfADiskIsFilledAndEachDiskReported(t *testing.T) {
	k, mem := filledLab(t)
	var filled []bool
	for e := range fillExtents {
		filled = append(filled, !zero(mem[0].data[e*FillExtent:][:PageSize]))
	}
	if !slices.Equal(filled, []bool{false, true, false, true}) {
		t.Errorf("filled extents %v", filled)
	}
	if got := k.DiskBlocks(); !slices.Equal(got, []uint64{1024, 100}) || k.Blocks() != 1124 {
		t.Errorf("blocks %v, in all %d", got, k.Blocks())
	}
	for _, i := range []uint64{0, 256, 300, 1024, 1123} {
		if err := k.WriteBlock(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.WriteBlock(1124); err == nil {
		t.Error("a block is written that no disk has")
	}
	r := k.Verify(t.Context())
	wantKinds(t, r)
	want := []DiskReport{
		{Name: "vda", OK: true, Blocks: 1024, Unwritten: 1021, Filled: 510, Unflushed: 3},
		{Name: "vdb", OK: true, Blocks: 100, Unwritten: 98, Unflushed: 2},
	}
	if !slices.Equal(r.Disks, want) || r.Blocks != 1124 || r.Unwritten != 1119 || r.Unflushed != 5 {
		t.Errorf("report %+v", r)
	}
	if k.Reads().Max == 0 {
		t.Error("no read was timed")
	}
	if k.ResetReads(); k.Reads() != (RoundTrip{}) {
		t.Error("reads are not forgotten")
	}
}

func TestEachErrorOfAFilledDiskIsFound(t *testing.T) {
	const filled, written, empty = 300, 310, 10
	for name, tt := range map[string]struct {
		want  Kind
		disk  string
		index uint64
		spoil func(mem []*memDisk)
	}{
		"fill lost":           {LostFill, "vda", filled, func(m []*memDisk) { clear(at(m[0], filled)) }},
		"fill torn":           {LostFill, "vda", filled, func(m []*memDisk) { clear(at(m[0], filled)[512:]) }},
		"fill of elsewhere":   {MisplacedBlock, "vda", filled, func(m []*memDisk) { copy(at(m[0], filled), at(m[0], filled+1)) }},
		"write on fill lost":  {LostWrite, "vda", written, func(m []*memDisk) { putFill(at(m[0], written), 5, 0, written) }},
		"fill in a hole":      {MisplacedBlock, "vda", empty, func(m []*memDisk) { copy(at(m[0], empty), at(m[0], filled)) }},
		"fill came again":     {LostWrite, "vdb", 3, func(m []*memDisk) { clear(at(m[1], 3)) }},
		"block of other disk": {MisplacedBlock, "vdb", 3, func(m []*memDisk) { copy(at(m[1], 3), at(m[0], written)) }},
		"write never made": {FutureBlock, "vda", filled, func(m []*memDisk) {
			record{magic: blockMagic, index: filled, version: 1, incarnation: 77}.put(at(m[0], filled), 5)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			k, mem := filledLab(t)
			for _, i := range []uint64{written, 1024 + 3} {
				if err := k.WriteBlock(i); err != nil {
					t.Fatal(err)
				}
			}
			tt.spoil(mem)
			r := k.Verify(t.Context())
			wantKinds(t, r, tt.want)
			for _, f := range r.Findings.List {
				if f.Disk != tt.disk || f.Index != tt.index {
					t.Errorf("found %v", f)
				}
			}
			for _, d := range r.Disks {
				if d.OK != (d.Name != tt.disk) || (d.Findings == 1) == d.OK {
					t.Errorf("report %+v", d)
				}
			}
		})
	}
}

func TestWhatCannotBeFilledIsRefused(t *testing.T) {
	for _, used := range []int64{-FillExtent, 1, 5 * FillExtent} {
		if err := FillDisk(&memDisk{}, 4*FillExtent, used, 1, 0); err == nil {
			t.Errorf("%d bytes of 4 MiB are filled", used)
		}
	}
}
