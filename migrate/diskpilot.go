package migrate

import (
	"fmt"
	"time"
)

// DiskPilot decides, from the figures of disks that are copied while the guest runs, when a copy has to change its way of
// following the guest's writes, when one that waits for room is tried again, and when one is hopeless. It is pure: the same
// samples give the same moves.
//
// A copy is judged every few seconds by what it sent since the last judgement and by how much its remainder shrank:
//
//	shrink = remainder(before) - remainder(now)       sent - shrink = what the guest wrote meanwhile
//
// It does not get ahead of the guest if the remainder shrank by less than a tenth of what was sent: nine tenths of the copy's
// work undo what the guest does. Being a ratio, it means the same for a disk of any size and a link of any speed. A copy that
// is in step with the guest has nothing left to shrink; it is behind if what is left at a judgement takes longer to send, at
// the highest speed that was seen before, than half of the pause that the user accepts, since all of it is sent within the pause.
type DiskPilot struct {
	cfg   DiskPilotConfig
	disks map[string]*diskTrack
}

// DiskPilotConfig is what a DiskPilot steers by.
type DiskPilotConfig struct {
	// Idle is how long a copy that has something to send may move nothing; 0 is for ever. Full is how long one may wait for
	// room at the destination; 0 is not at all.
	Idle, Full time.Duration
	// Bandwidth is the cap of all copies together in bytes a second, which may explain that nothing moves; 0 is none.
	Bandwidth int64
	// MaxDowntime is the pause that the user accepts; 0 is 300 ms.
	MaxDowntime time.Duration
	// Judge is the time between two judgements; 0 is 2 s. Patience is how many in a row have to be bad; 0 is 3.
	Judge    time.Duration
	Patience int
}

// DiskSample is one reading of a disk's copy.
type DiskSample struct {
	Name string
	// Total and Sent are the copy's work, as known now, and what of it is done, in bytes.
	Total, Sent int64
	// InStep: there was a moment at which the two were equal, and the copy follows the guest since.
	InStep bool
	// Full: the copy stands still since the destination has no room.
	Full bool
	// Blocking: the guest's writes wait for the destination already.
	Blocking bool
}

// DiskMoveKind is what is to be done about a disk's copy.
type DiskMoveKind uint8

// The moves. DiskBehind: the guest's writes have to wait for the destination, or the copy never catches up. DiskRetry: see
// whether there is room now. DiskStuck and DiskNoRoom: end the migration.
const (
	DiskBehind DiskMoveKind = iota + 1
	DiskRetry
	DiskStuck
	DiskNoRoom
)

// DiskMove is one decision.
type DiskMove struct {
	Kind DiskMoveKind
	Disk string
	// Why says it in words.
	Why string
}

// diskTrack is what is remembered of one disk.
type diskTrack struct {
	sent    int64
	movedAt time.Duration

	full                     bool
	fullSince, retried, well time.Duration // well: since when it moves again, if that is above 0

	judged              bool
	judgedAt            time.Duration
	judgedSent, wasLeft int64
	fastest             float64 // bytes a second
	flat                int
	told                bool
}

// The pilot's times: how often a copy that waits for room is tried, and how long it must have moved again to count as well.
const (
	diskRetryEvery = 3 * time.Second
	diskWellAfter  = 2 * time.Second
)

// NewDiskPilot fills in the defaults.
func NewDiskPilot(cfg DiskPilotConfig) *DiskPilot {
	if cfg.MaxDowntime <= 0 {
		cfg.MaxDowntime = 300 * time.Millisecond
	}
	if cfg.Judge <= 0 {
		cfg.Judge = 2 * time.Second
	}
	if cfg.Patience <= 0 {
		cfg.Patience = 3
	}
	return &DiskPilot{cfg: cfg, disks: map[string]*diskTrack{}}
}

// Waits tells whether a disk's copy waits for room at the destination. A try that moved a little does not change that.
func (p *DiskPilot) Waits(disk string) bool {
	t := p.disks[disk]
	return t != nil && t.full
}

// SetCap changes the cap of all copies together.
func (p *DiskPilot) SetCap(bandwidth int64) { p.cfg.Bandwidth = bandwidth }

// Step takes the figures of all copies at a time since they began, and gives the moves that they call for; usually none.
func (p *DiskPilot) Step(at time.Duration, all []DiskSample) []DiskMove {
	var out []DiskMove
	for _, s := range all {
		t := p.disks[s.Name]
		if t == nil {
			t = &diskTrack{sent: s.Sent, movedAt: at}
			p.disks[s.Name] = t
		}
		if m := p.room(t, at, s); m != nil {
			out = append(out, *m)
		}
		if m := p.idle(t, at, s, len(all)); m != nil {
			out = append(out, *m)
		}
		if m := p.judge(t, at, s); m != nil {
			out = append(out, *m)
		}
	}
	return out
}

// room looks after a copy that waits for room.
func (p *DiskPilot) room(t *diskTrack, at time.Duration, s DiskSample) *DiskMove {
	switch {
	case s.Full && !t.full:
		t.full, t.fullSince, t.retried = true, at, at
	case !s.Full && t.full && t.well == 0 && s.Sent < s.Total:
		t.well = max(at, 1)
	case !s.Full && t.full && (at-t.well >= diskWellAfter || s.Total <= s.Sent):
		t.full, t.well = false, 0
	}
	if !s.Full || !t.full {
		return nil
	}
	t.well = 0
	if at-t.fullSince >= p.cfg.Full {
		why := "there is no room for it at the destination"
		if p.cfg.Full > 0 {
			why = fmt.Sprintf("there was no room for it at the destination for %v", p.cfg.Full)
		}
		return &DiskMove{Kind: DiskNoRoom, Disk: s.Name, Why: why}
	}
	if at-t.retried < diskRetryEvery {
		return nil
	}
	t.retried = at
	return &DiskMove{Kind: DiskRetry, Disk: s.Name, Why: "see whether there is room now"}
}

// idle looks for a copy that moves nothing although it has something to send, and does not wait for room.
func (p *DiskPilot) idle(t *diskTrack, at time.Duration, s DiskSample, disks int) *DiskMove {
	nothing := s.Total <= s.Sent && (s.InStep || s.Total == 0) // one that has sent all still has to see it safe there
	if s.Sent != t.sent || nothing || t.full {
		t.sent, t.movedAt = s.Sent, at
		return nil
	}
	if p.cfg.Idle <= 0 || at-t.movedAt < p.cfg.Idle+p.allowance(disks) {
		return nil
	}
	return &DiskMove{Kind: DiskStuck, Disk: s.Name, Why: fmt.Sprintf("its copy moved no byte for %v", p.cfg.Idle)}
}

// allowance is how long the cap may explain that nothing moves: QEMU sends up to 16 MiB at once, and waits afterwards.
func (p *DiskPilot) allowance(disks int) time.Duration {
	if p.cfg.Bandwidth <= 0 {
		return 0
	}
	const piece = 16 << 20
	return time.Duration(float64(piece) / float64(p.cfg.Bandwidth) * float64(disks) * float64(time.Second))
}

// judge looks whether a copy gets ahead of the guest's writes.
func (p *DiskPilot) judge(t *diskTrack, at time.Duration, s DiskSample) *DiskMove {
	if t.full || s.Blocking || t.told {
		t.judged = false
		return nil
	}
	left := s.Total - s.Sent
	if !t.judged {
		t.judged, t.judgedAt, t.judgedSent, t.wasLeft = true, at, s.Sent, left
		return nil
	}
	dt := at - t.judgedAt
	if dt < p.cfg.Judge {
		return nil
	}
	sent, shrink := s.Sent-t.judgedSent, t.wasLeft-left
	t.judgedAt, t.judgedSent, t.wasLeft = at, s.Sent, left
	if !s.InStep { // after that it sends no more than the guest writes
		t.fastest = max(t.fastest, float64(sent)/dt.Seconds())
	}
	if !p.behind(t, s, sent, shrink, left) {
		t.flat = 0
		return nil
	}
	if t.flat++; t.flat < p.cfg.Patience {
		return nil
	}
	t.told = true
	why := fmt.Sprintf("of the last %s that were sent, the guest wrote %s again", showBytes(sent), showBytes(sent-shrink))
	if s.InStep {
		why = fmt.Sprintf("%s were left to send, again and again, which is too much for a pause of %v", showBytes(left), p.cfg.MaxDowntime)
	}
	return &DiskMove{Kind: DiskBehind, Disk: s.Name, Why: why}
}

func (p *DiskPilot) behind(t *diskTrack, s DiskSample, sent, shrink, left int64) bool {
	if s.InStep {
		return left > 0 && t.fastest > 0 && float64(left)/t.fastest > p.cfg.MaxDowntime.Seconds()/2
	}
	return sent > 0 && shrink*10 < sent
}

// DiskShares divides the cap of all copies, in bytes a second; 0 is none. One that is in step sends only what the guest writes, so the others get more.
func DiskShares(limit int64, inStep []bool) []int64 {
	out := make([]int64, len(inStep))
	busy := 0
	for _, ok := range inStep {
		if !ok {
			busy++
		}
	}
	if limit <= 0 || len(inStep) == 0 {
		return out
	}
	even := limit / int64(len(inStep))
	slow, fast := even, even
	if done := len(inStep) - busy; busy > 0 && done > 0 {
		slow = even / 4
		fast = (limit - slow*int64(done)) / int64(busy)
	}
	for i, ok := range inStep {
		if out[i] = max(1, fast); ok {
			out[i] = max(1, slow)
		}
	}
	return out
}
