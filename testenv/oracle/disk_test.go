package oracle

import (
	"errors"
	"io"
	"slices"
	"testing"
)

// memDisk is a disk in memory that fails when told to.
type memDisk struct {
	data  []byte
	fail  error
	syncs int
}

func (d *memDisk) ReadAt(b []byte, off int64) (int, error) {
	if d.fail != nil {
		return 0, d.fail
	}
	if off >= int64(len(d.data)) {
		return 0, io.EOF
	}
	n := copy(b, d.data[off:])
	if n < len(b) {
		return n, io.ErrUnexpectedEOF
	}
	return n, nil
}

func (d *memDisk) WriteAt(b []byte, off int64) (int, error) {
	if d.fail != nil {
		return 0, d.fail
	}
	return copy(d.data[off:], b), nil
}

func (d *memDisk) Sync() error { d.syncs++; return d.fail }

func TestEachErrorOfTheDiskIsFound(t *testing.T) {
	const i = 300
	tests := []struct {
		name  string
		want  Kind
		spoil func(l *lab, old []byte)
	}{
		{"lost write", LostWrite, func(l *lab, old []byte) { copy(l.blockAt(i), old) }},
		{"lost first write", LostWrite, func(l *lab, _ []byte) { clear(l.blockAt(i)) }},
		{"torn block", TornBlock, func(l *lab, old []byte) { copy(l.blockAt(i)[:512], old) }},
		{"one bit", TornBlock, func(l *lab, old []byte) { l.blockAt(i)[100] ^= 1 }},
		{"another block", MisplacedBlock, func(l *lab, _ []byte) { copy(l.blockAt(i), l.blockAt(i+1)) }},
		{"a block too new", FutureBlock, func(l *lab, _ []byte) {
			r := header(l.blockAt(i))
			r.version++
			r.put(l.blockAt(i), 5)
		}},
		{"a block that was never written", FutureBlock, func(l *lab, _ []byte) {
			r := header(l.blockAt(i))
			r.index = 650
			r.put(l.blockAt(650), 5)
		}},
		{"garbage where nothing was written", TornBlock, func(l *lab, _ []byte) { l.blockAt(651)[7] = 1 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			l.writeBlocks(t, i, i+1, i)
			old := slices.Clone(l.blockAt(i))
			l.writeBlocks(t, i)
			tt.spoil(l, old)
			wantKinds(t, l.Verify(t.Context()), tt.want)
			l.writeBlocks(t, i, 650, 651, i)
			if r := l.Verify(t.Context()); !r.Findings.Has(tt.want) {
				t.Errorf("forgotten after the block was written again: %v", r.Findings.List)
			}
		})
	}
}

func (l *lab) writeBlocks(t *testing.T, blocks ...uint64) {
	t.Helper()
	for _, i := range blocks {
		if err := l.WriteBlock(i); err != nil {
			t.Fatal(err)
		}
	}
}

func TestADiskOfAnEarlierBootIsWellAndItsBlocksAreNotOurs(t *testing.T) {
	l := newLab(t)
	l.writeBlocks(t, 1, 2, 3)
	old := slices.Clone(l.blockAt(2))
	l.boot(t, 78)
	wantKinds(t, l.Verify(t.Context()))
	l.writeBlocks(t, 2)
	wantKinds(t, l.Verify(t.Context()))
	copy(l.blockAt(2), old)
	wantKinds(t, l.Verify(t.Context()), LostWrite)
}

func TestADiskWithOtherContents(t *testing.T) {
	l := newLab(t)
	for i := range l.disk.data {
		l.disk.data[i] = byte(i) | 1
	}
	l.boot(t, 78)
	l.writeBlocks(t, 2)
	wantKinds(t, l.Verify(t.Context()))
	l.blockAt(2)[1] = 0
	wantKinds(t, l.Verify(t.Context()), TornBlock)
}

func TestAFailedReadIsFound(t *testing.T) {
	l := newLab(t)
	l.disk.fail = errors.New("no route to storage")
	if err := l.WriteBlock(5); !errors.Is(err, l.disk.fail) {
		t.Fatalf("WriteBlock = %v", err)
	}
	l.disk.fail = nil
	wantKinds(t, l.Verify(t.Context()), DiskError)
}

func TestAWriteThatFailedHalfwayIsNotALostWrite(t *testing.T) {
	for _, arrived := range []bool{false, true} {
		l := newLab(t)
		l.writeBlocks(t, 5)
		d := &failWrites{memDisk: l.disk, arrive: arrived}
		l.Keeper.disks.list[0].Device = d
		if err := l.WriteBlock(5); err == nil {
			t.Fatal("WriteBlock succeeded on a failing disk")
		}
		l.Keeper.disks.list[0].Device = l.disk
		wantKinds(t, l.Verify(t.Context()), DiskError)
		// Once a write went well, the version before it is a lost write again.
		l.writeBlocks(t, 5, 5)
		old := slices.Clone(l.blockAt(5))
		l.writeBlocks(t, 5)
		wantKinds(t, l.Verify(t.Context()), DiskError)
		r := header(old)
		r.version = 1
		r.put(l.blockAt(5), 5)
		wantKinds(t, l.Verify(t.Context()), DiskError, LostWrite)
	}
}

// failWrites fails every write, after or before it reached the disk.
type failWrites struct {
	*memDisk
	arrive bool
}

func (d *failWrites) WriteAt(b []byte, off int64) (int, error) {
	if d.arrive {
		if _, err := d.memDisk.WriteAt(b, off); err != nil {
			return 0, err
		}
	}
	return 0, errors.New("broken pipe")
}

func TestADiskThatShrankIsAnError(t *testing.T) {
	l := newLab(t)
	l.disk.data = l.disk.data[:100*PageSize]
	r := l.Verify(t.Context())
	if r.OK || r.Error == "" || !r.Findings.Has(DiskError) {
		t.Errorf("report %+v", r)
	}
}

func TestWritesAreFlushed(t *testing.T) {
	l := newLab(t)
	for i := range uint64(65) {
		l.writeBlocks(t, i)
	}
	if r := l.Verify(t.Context()); l.disk.syncs != 1 || r.Unflushed != 1 {
		t.Errorf("%d flushes and %d unflushed after 65 writes, want one of each", l.disk.syncs, r.Unflushed)
	}
	if err := l.Flush(); err != nil || l.disk.syncs != 2 {
		t.Errorf("Flush: %v, %d flushes", err, l.disk.syncs)
	}
}
