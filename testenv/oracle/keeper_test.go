package oracle

import (
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// lab is a keeper over plain memory, which a test may spoil as a migration might.
type lab struct {
	*Keeper
	region []byte
	allocs [][]byte // the seal's page first, then the ledgers
	disk   *memDisk
}

const (
	labPages  = ledgerFan + 7 // two levels of ledger
	labBlocks = 700
)

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{region: make([]byte, labPages*PageSize), disk: &memDisk{data: make([]byte, labBlocks*PageSize)}}
	return l.boot(t, 77)
}

// boot makes a new keeper over fresh memory and the disk as it is.
func (l *lab) boot(t *testing.T, incarnation uint64) *lab {
	t.Helper()
	l.allocs = nil
	k, err := NewKeeper(KeeperConfig{Guest: "lab", Incarnation: incarnation, Seed: 5, Region: l.region,
		Disks: []KeptDisk{{Name: "vda", Device: l.disk, Size: int64(len(l.disk.data))}},
		Alloc: func(n int) []byte {
			b := make([]byte, n)
			l.allocs = append(l.allocs, b)
			return b
		}})
	if err != nil {
		t.Fatal(err)
	}
	l.Keeper = k
	return l
}

// run writes n pages, a tenth as many blocks, and ticks.
func (l *lab) run(t *testing.T, n int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, uint64(l.Seal().Pages)))
	for i := range n {
		l.WritePage(rng.Uint64N(labPages))
		if i%10 == 0 {
			if err := l.WriteBlock(rng.Uint64N(labBlocks)); err != nil {
				t.Fatal(err)
			}
			mono := l.Seal().Mono + TickPeriod
			l.Tick(mono, mono+time.Hour)
		}
	}
}

func (l *lab) pageAt(i uint64) []byte  { return l.region[i*PageSize:][:PageSize] }
func (l *lab) blockAt(i uint64) []byte { return l.disk.data[i*PageSize:][:PageSize] }

// wantKinds fails unless the report has just these kinds.
func wantKinds(t *testing.T, r Report, want ...Kind) {
	t.Helper()
	var got []Kind
	for k := range r.Findings.Counts {
		got = append(got, k)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("findings %v, want %v: %v", got, want, r.Findings.List)
	}
	if r.OK != (len(want) == 0) {
		t.Errorf("OK = %v with %d findings", r.OK, r.Findings.Total())
	}
}

func TestAGuestThatNobodyTouchedIsWell(t *testing.T) {
	l := newLab(t)
	for range 3 {
		l.run(t, 3000)
		r := l.Verify(t.Context())
		wantKinds(t, r)
		if r.Pages != labPages || r.Blocks != labBlocks || r.Tables == 0 || r.Unwritten == 0 {
			t.Errorf("checked %d pages, %d blocks (%d unwritten), %d tables", r.Pages, r.Blocks, r.Unwritten, r.Tables)
		}
	}
}

func TestAPauseIsNoError(t *testing.T) {
	l := newLab(t)
	l.Tick(time.Second, time.Hour)
	l.Tick(48*time.Hour, 49*time.Hour) // two days later, both clocks alike
	wantKinds(t, l.Verify(t.Context()))
}

func TestEachErrorOfMemoryIsFound(t *testing.T) {
	const i = 300
	tests := []struct {
		name string
		want []Kind
		// spoil is given the page as it was before the last writes.
		spoil func(l *lab, old []byte)
	}{
		{"lost page", []Kind{LostPage}, func(l *lab, _ []byte) { clear(l.pageAt(i)) }},
		{"stale page", []Kind{StalePage}, func(l *lab, old []byte) { copy(l.pageAt(i), old) }},
		{"torn page, first half old", []Kind{TornPage}, func(l *lab, old []byte) { copy(l.pageAt(i)[:2048], old) }},
		{"torn page, last half old", []Kind{TornPage}, func(l *lab, old []byte) { copy(l.pageAt(i)[2048:], old[2048:]) }},
		{"torn page, one word old", []Kind{TornPage}, func(l *lab, old []byte) { copy(l.pageAt(i)[2048:2056], old[2048:]) }},
		{"torn page, half zeros", []Kind{TornPage}, func(l *lab, _ []byte) { clear(l.pageAt(i)[2048:]) }},
		{"torn page, header zeros", []Kind{TornPage}, func(l *lab, _ []byte) { clear(l.pageAt(i)[:64]) }},
		{"one bit", []Kind{TornPage}, func(l *lab, _ []byte) { l.pageAt(i)[4095] ^= 0x80 }},
		{"wrong fill with a right sum", []Kind{TornPage}, func(l *lab, _ []byte) {
			l.pageAt(i)[1000] ^= 1
			binary.LittleEndian.PutUint64(l.pageAt(i)[recordSumAt:], sum64(l.pageAt(i)[:recordSumAt]))
		}},
		{"another page", []Kind{MisplacedPage}, func(l *lab, _ []byte) { copy(l.pageAt(i), l.pageAt(i+1)) }},
		{"page from the future", []Kind{FuturePage}, func(l *lab, _ []byte) {
			r := header(l.pageAt(i))
			r.version++
			r.put(l.pageAt(i), 5)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			old := slices.Clone(l.pageAt(i))
			l.WritePage(i)
			l.run(t, 100)
			tt.spoil(l, old)
			wantKinds(t, l.Verify(t.Context()), tt.want...)
			// Writing over it does not make it good.
			l.WritePage(i)
			l.WritePage(i)
			if r := l.Verify(t.Context()); r.OK || !r.Findings.Has(tt.want[0]) {
				t.Errorf("forgotten after the page was written again: %v", r.Findings.List)
			}
		})
	}
}

func TestTheLastWriteIsFollowed(t *testing.T) {
	l := newLab(t)
	l.WritePage(9)
	old := slices.Clone(l.pageAt(9))
	l.WritePage(9)
	copy(l.pageAt(9), old)
	wantKinds(t, l.Verify(t.Context()), StalePage, StaleSeal)
}

// ledgerPages are the pages of the ledger of the region, level by level.
func (l *lab) ledgerPages() [][]byte { return l.Keeper.pages.levels }

func TestEachErrorOfTheLedgerIsFound(t *testing.T) {
	const i = 300
	snapshot := func(l *lab) (s [][]byte) {
		for _, level := range l.ledgerPages() {
			s = append(s, slices.Clone(level))
		}
		return s
	}
	slot := i / ledgerFan * PageSize
	tests := []struct {
		name  string
		want  []Kind
		spoil func(l *lab, old [][]byte)
	}{
		{"stale page", []Kind{StaleTable}, func(l *lab, old [][]byte) {
			copy(l.ledgerPages()[0][slot:slot+PageSize], old[0][slot:])
		}},
		{"stale top", []Kind{StaleTable}, func(l *lab, old [][]byte) { copy(l.ledgerPages()[1], old[1]) }},
		{"all of it stale", []Kind{StaleTable, FuturePage}, func(l *lab, old [][]byte) {
			copy(l.ledgerPages()[0], old[0])
			copy(l.ledgerPages()[1], old[1])
		}},
		{"lost page", []Kind{StaleTable}, func(l *lab, _ [][]byte) { clear(l.ledgerPages()[0][slot : slot+PageSize]) }},
		{"torn page", []Kind{TornTable}, func(l *lab, old [][]byte) {
			copy(l.ledgerPages()[0][slot:slot+2048], old[0][slot:])
		}},
		{"header", []Kind{TornTable}, func(l *lab, _ [][]byte) { l.ledgerPages()[0][slot+17]++ }},
		{"one entry", []Kind{TornTable}, func(l *lab, _ [][]byte) { l.ledgerPages()[0][slot+ledgerEntriesAt]++ }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			old := snapshot(l)
			l.WritePage(i)
			// Every entry in both halves of its ledger page changes, so that
			// half of the old page shows.
			for j := range uint64(ledgerFan) {
				l.WritePage(i/ledgerFan*ledgerFan + j)
			}
			tt.spoil(l, old)
			wantKinds(t, l.Verify(t.Context()), tt.want...)
			l.WritePage(i)
			l.WritePage(i)
			if r := l.Verify(t.Context()); r.OK {
				t.Error("forgotten after the page was written again")
			}
		})
	}
}

// A page and the ledger page that knows it went back together, so that they
// agree; the next write would take up from there.
func TestAPageThatIsStaleTogetherWithItsLedgerIsFound(t *testing.T) {
	for name, spoilHeader := range map[string]bool{"stale": false, "torn": true} {
		t.Run(name, func(t *testing.T) {
			const i = 300
			l := newLab(t)
			page, next := slices.Clone(l.pageAt(i)), slices.Clone(l.pageAt(i+1))
			table := slices.Clone(l.ledgerPages()[0][:PageSize])
			l.WritePage(i)
			l.WritePage(i + 1)
			if spoilHeader {
				l.ledgerPages()[0][41] ^= 1 // its check, which a write renews
			} else {
				copy(l.pageAt(i), page)
				copy(l.pageAt(i+1), next)
				copy(l.ledgerPages()[0], table)
			}
			l.WritePage(i)
			if r := l.Verify(t.Context()); !r.Findings.Has(StaleTable) {
				t.Errorf("findings %v", r.Findings.List)
			}
		})
	}
}

func TestALevelOfTheLedgerThatIsOlderThanTheOneBelowIsFound(t *testing.T) {
	l := newLab(t)
	top := l.ledgerPages()[1]
	setEntry(top, 0, 1) // one more write in all, and fewer to the first page
	l.seals.seal.Pages++
	l.seals.copyOut()
	r := l.Verify(t.Context())
	if !r.Findings.Has(StaleTable) || !strings.Contains(r.Findings.List[0].Detail, "newer than what is above") {
		t.Errorf("findings %v", r.Findings.List)
	}
}

// A page and every copy that the guest itself has of what it should be, all
// consistently old: the ledger, the seal's page. Only the variable is new.
func TestAStaleSealIsFound(t *testing.T) {
	// Each of these writes the seal anew, which must not hide that it was stale.
	for name, renew := range map[string]func(l *lab){
		"answer": func(l *lab) { l.Answer() },
		"write":  func(l *lab) { l.WritePage(1) },
		"tick":   func(l *lab) { l.Tick(l.Seal().Mono+1, time.Hour) },
		"verify": func(l *lab) { l.Verify(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			old := slices.Clone(l.allocs[0])
			l.run(t, 10)
			copy(l.allocs[0], old)
			renew(l)
			wantKinds(t, l.Verify(t.Context()), StaleSeal, ReplayedTick)
		})
	}
}

func TestAReplayedTickInMemoryIsFound(t *testing.T) {
	l := newLab(t)
	l.Tick(1, 1)
	old := slices.Clone(l.allocs[0])
	l.Tick(2, 2)
	copy(l.allocs[0][16:32], old[16:]) // the tick and its chain
	wantKinds(t, l.Verify(t.Context()), ReplayedTick)
}

func TestTheClocksAreHeldToTheirPromises(t *testing.T) {
	tests := []struct {
		name       string
		mono, wall time.Duration
		want       []Kind
	}{
		{"both go on", 2 * time.Second, 102 * time.Second, nil},
		{"the wall clock is stepped a little", 2 * time.Second, 102*time.Second + 900*time.Millisecond, nil},
		{"monotonic back", 999 * time.Millisecond, 100*time.Second + 999*time.Millisecond, []Kind{ClockBack}},
		{"wall clock back", 2 * time.Second, 90 * time.Second, []Kind{ClockJump}},
		{"wall clock ahead", 2 * time.Second, 104 * time.Second, []Kind{ClockJump}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			l.Tick(time.Second, 101*time.Second)
			l.Tick(tt.mono, tt.wall)
			wantKinds(t, l.Verify(t.Context()), tt.want...)
		})
	}
}

func TestACheckThatWasCutShortIsNotOK(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := newLab(t).Verify(ctx); r.OK || r.Error == "" {
		t.Errorf("report %+v", r)
	}
}

func TestNewKeeperRefuses(t *testing.T) {
	page := make([]byte, PageSize)
	for name, cfg := range map[string]KeeperConfig{
		"no region":      {Incarnation: 1},
		"half a page":    {Incarnation: 1, Region: page[:100]},
		"no incarnation": {Region: page},
		"no disk block":  {Incarnation: 1, Region: page, Disks: []KeptDisk{{Device: &memDisk{}, Size: 4095}}},
		"unreadable":     {Incarnation: 1, Region: page, Disks: []KeptDisk{{Device: &memDisk{fail: io.ErrClosedPipe}, Size: 4096}}},
	} {
		if _, err := NewKeeper(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	k, err := NewKeeper(KeeperConfig{Incarnation: 1, Region: page})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.WriteBlock(0); err == nil {
		t.Error("a guest without a disk wrote a block")
	}
	if r := k.Verify(t.Context()); !r.OK || r.Pages != 1 || r.Blocks != 0 {
		t.Errorf("one page, no disk: %+v", r)
	}
}

func TestFindingsAreBoundedAndCounted(t *testing.T) {
	l := newLab(t)
	clear(l.region)
	r := l.Verify(t.Context())
	if len(r.Findings.List) > 2*maxFindings || r.Findings.Counts[LostPage] != labPages {
		t.Errorf("%d listed, counts %v", len(r.Findings.List), r.Findings.Counts)
	}
}

func BenchmarkWritePage(b *testing.B) {
	k, err := NewKeeper(KeeperConfig{Incarnation: 1, Region: make([]byte, 1024*PageSize)})
	if err != nil {
		b.Fatal(err)
	}
	for i := uint64(0); b.Loop(); i++ {
		k.WritePage(i & 1023)
	}
}
