package qemuhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// copies is what is kept of the mirrors of a migration, for Perform, Stats and Tune. The Host's mutex guards it; the pilot's
// moves are carried out by Perform alone.
type copies struct {
	pilot *migrate.DiskPilot
	began time.Time
	cap   int64            // of all together, bytes a second; 0 is none
	told  map[string]int64 // the speed that each was given, by disk
	// blocking are the disks whose guest writes wait for the destination; changes tells that this can be asked for.
	blocking map[string]bool
	changes  bool
	advice   map[string]string
	last     map[string]migrate.DiskStats // the newest figures, also when the jobs are no more
	// errors tells of the jobs' I/O errors. It is Perform's.
	errors *qmp.Subscription
	failed map[string]string // what a job was doing when it met one: read or write
	held   bool              // QEMU is kept from stopping the guest now
}

// newCopies is for the mirrors of one migration.
func (h *Host) newCopies(p migrate.Params) *copies {
	return &copies{
		pilot: migrate.NewDiskPilot(migrate.DiskPilotConfig{Idle: p.DiskIdle, Full: p.DiskFull, Bandwidth: p.DiskCap(), MaxDowntime: p.MaxDowntime, Judge: h.judge}),
		began: time.Now(), cap: p.DiskCap(), told: map[string]int64{}, blocking: map[string]bool{}, advice: map[string]string{},
		last: map[string]migrate.DiskStats{}, failed: map[string]string{}, changes: h.c.Version().AtLeast(8, 2),
	}
}

// mirrorJobs lists the mirrors of this driver.
func (h *Host) mirrorJobs(ctx context.Context) ([]qmp.BlockJob, error) {
	all, err := qmp.QueryBlockJobs(ctx, h.c)
	return slices.DeleteFunc(all, func(j qmp.BlockJob) bool { return !strings.HasPrefix(j.Device, prefix+"mirror-") }), err
}

// diskOf is the disk that a mirror copies.
func diskOf(j qmp.BlockJob) string { return strings.TrimPrefix(j.Device, prefix+"mirror-") }

// fullTarget tells that a mirror stands still since its target has no room. QEMU pauses it and lets the guest go on.
func fullTarget(j qmp.BlockJob) bool { return j.IOStatus == "nospace" && j.Paused }

// account remembers the figures for Stats, also when the jobs are no more.
func (h *Host) account(js []qmp.BlockJob) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.copies == nil && len(js) > 0 {
		h.copies = h.newCopies(migrate.Params{}) // somebody else began them
	}
	for _, j := range js {
		left := j.Len - j.Offset
		d := migrate.DiskStats{Name: diskOf(j), Total: &j.Len, Sent: &j.Offset, Remaining: &left, Way: migrate.WayMirror, Writes: migrate.WritesBackground}
		before := h.copies.last[d.Name]
		d.InStep = j.Ready || before.InStep
		if h.copies.blocking[d.Name] || isTrue(j.ActivelySynced) {
			d.Writes = migrate.WritesBlocking
		}
		if d.Advice = h.copies.advice[d.Name]; fullTarget(j) || h.copies.pilot.Waits(d.Name) {
			d.Waits = fmt.Sprintf("the target is full (No space left on device); free %d MiB there, the copy goes on by itself", (left+1<<20-1)>>20)
		}
		h.copies.last[d.Name] = d
	}
}

func isTrue(b *bool) bool { return b != nil && *b }

// diskFigures adds what is known of the disks to a job's figures.
func (h *Host) diskFigures(s *migrate.Stats) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.copies == nil || len(h.copies.last) == 0 {
		return
	}
	var total, sent int64
	for _, name := range slices.Sorted(maps.Keys(h.copies.last)) {
		d := h.copies.last[name]
		total, sent = total+*d.Total, sent+*d.Sent
		s.Disks = append(s.Disks, d)
	}
	left := total - sent
	s.DiskTotal, s.DiskSent, s.DiskRemaining = &total, &sent, &left
}

// tend looks at all mirrors, does what the pilot says, and tells whether all are in step. One that ended is an error.
func (h *Host) tend(ctx context.Context, want int) (ready bool, err error) {
	js, err := h.mirrorJobs(ctx)
	if err != nil {
		return false, err
	}
	h.hear()
	ready = true
	var samples []migrate.DiskSample
	for _, j := range js {
		if j.Status == qmp.JobConcluded {
			h.account(js)
			return false, h.mirrorFailed(j)
		}
		ready = ready && j.Ready && !fullTarget(j)
		samples = append(samples, migrate.DiskSample{Name: diskOf(j), Total: j.Len, Sent: j.Offset, InStep: j.Ready, Full: fullTarget(j),
			Blocking: isTrue(j.ActivelySynced)})
	}
	if len(js) < want {
		return false, fmt.Errorf("%d of %d mirrors are gone: somebody else ended them", want-len(js), want)
	}
	for _, m := range h.moves(samples) {
		if err := h.follow(ctx, m); err != nil {
			return false, err
		}
	}
	h.account(js)
	return ready, errors.Join(h.share(ctx, js), h.hold(ctx))
}

// moves asks the pilot.
func (h *Host) moves(samples []migrate.DiskSample) []migrate.DiskMove {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range samples {
		samples[i].Blocking = samples[i].Blocking || h.copies.blocking[samples[i].Name]
	}
	return h.copies.pilot.Step(time.Since(h.copies.began), samples)
}

const noRoomFix = "free some space at the destination, or give the disk another path with --disk; then migrate again"

// follow carries out one of the pilot's moves.
func (h *Host) follow(ctx context.Context, m migrate.DiskMove) error {
	op := "copy disk " + m.Disk
	switch m.Kind {
	case migrate.DiskBehind:
		return h.block(ctx, m)
	case migrate.DiskRetry:
		return ignoreRefusal(qmp.JobResume(ctx, h.c, mirrorID(m.Disk)))
	case migrate.DiskStuck:
		return &migrate.OpError{Op: op, Side: migrate.SideSource, Err: fmt.Errorf("disk %s: %s", m.Disk, m.Why),
			Fix: "see that the link between the hosts is up and that both storages answer (dmesg), or allow more time with --disk-idle; then migrate again"}
	case migrate.DiskNoRoom:
		return &migrate.OpError{Op: op, Side: migrate.SideDestination, Err: fmt.Errorf("disk %s: the target is full (No space left on device): %s", m.Disk, m.Why),
			Fix: noRoomFix}
	}
	return nil
}

// block makes the guest's writes to a disk wait for the destination from now on. A QEMU that cannot is lived with.
func (h *Host) block(ctx context.Context, m migrate.DiskMove) error {
	advice := "the copy does not get ahead of the guest (" + m.Why + "): the guest's writes wait for the destination from now on"
	var err error
	if h.copies.changes {
		err = qmp.BlockJobChange(ctx, h.c, mirrorID(m.Disk), qmp.CopyWriteBlocking)
	}
	if err != nil && !refused(err) {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.copies.changes || err != nil {
		advice = "the copy does not get ahead of the guest (" + m.Why + "): --copy-storage-synchronous-writes makes the guest's writes wait for the destination, so that it does"
	} else {
		h.copies.blocking[m.Disk] = true
	}
	h.copies.advice[m.Disk] = advice
	return nil
}

// share gives each mirror its part of the cap, where that has changed.
func (h *Host) share(ctx context.Context, js []qmp.BlockJob) error {
	inStep := make([]bool, len(js))
	for i, j := range js {
		inStep[i] = j.Ready
	}
	h.mu.Lock()
	parts := migrate.DiskShares(h.copies.cap, inStep)
	told := maps.Clone(h.copies.told)
	h.mu.Unlock()
	for i, j := range js {
		if n, ok := told[j.Device]; ok && n == parts[i] {
			continue
		}
		if err := ignoreRefusal(qmp.BlockJobSetSpeed(ctx, h.c, j.Device, parts[i])); err != nil {
			return err
		}
		h.mu.Lock()
		h.copies.told[j.Device] = parts[i]
		h.mu.Unlock()
	}
	return nil
}

// setCap changes the cap of all mirrors while they run.
func (h *Host) setCap(ctx context.Context, limit int64) error {
	js, err := h.mirrorJobs(ctx)
	if err != nil {
		return err
	}
	h.mu.Lock()
	if h.copies == nil {
		h.copies = h.newCopies(migrate.Params{})
	}
	h.copies.cap = limit
	h.copies.pilot.SetCap(limit)
	h.mu.Unlock()
	return h.share(ctx, js)
}

// hold keeps QEMU from stopping the guest while a mirror waits for room: it is given next to no bandwidth, at which a pass over
// the RAM does not end soon, and the shortest pause, so that what a running guest writes is too much for it. (No pause at all
// would do the opposite: QEMU then stops the guest at the end of the next pass.) One that stops all the same, since its guest
// writes nothing, is let run again by Perform, which then fails.
func (h *Host) hold(ctx context.Context) error {
	h.tuning.Lock()
	defer h.tuning.Unlock()
	h.mu.Lock()
	waits := false
	for _, d := range h.copies.last {
		waits = waits || d.Waits != ""
	}
	change, pause, rate := waits != h.copies.held, uint64(downtimeMS(h.pause)), uint64(bandwidth(h.rate))
	h.copies.held = waits
	h.mu.Unlock()
	if !change {
		return nil
	}
	if waits {
		pause, rate = 1, heldRate
	}
	return qmp.SetMigrateParameters(ctx, h.c, qmp.MigrationParameters{DowntimeLimit: &pause, MaxBandwidth: &rate})
}

// heldRate is the bandwidth of RAM while a mirror waits for room, in bytes a second. QEMU sends a page each tenth of a second at
// least; below 10 it would count as no limit.
const heldRate = 4096

// holding keeps what was asked for, where it is not zero, and tells whether it has to wait until no mirror waits for room.
func (h *Host) holding(t migrate.Tuning) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t.MaxDowntime > 0 {
		h.pause = t.MaxDowntime
	}
	if t.Bandwidth > 0 {
		h.rate = t.Bandwidth
	}
	return h.copies != nil && h.copies.held
}

// hear takes what QEMU said of I/O errors since.
func (h *Host) hear() {
	if h.copies.errors == nil {
		return
	}
	for {
		select {
		case ev, ok := <-h.copies.errors.C():
			if !ok {
				return
			}
			var e qmp.BlockJobErrorEvent
			if json.Unmarshal(ev.Data, &e) == nil { // what is not as expected tells nothing
				h.copies.failed[e.Device] = e.Operation
			}
		default:
			return
		}
	}
}

// mirrorFailed is the error of a mirror that ended before its time. QEMU tells what the job was doing, read or write, and not
// at which offset.
func (h *Host) mirrorFailed(j qmp.BlockJob) error {
	disk, cause := diskOf(j), text(j.Error)
	h.hear()
	e := &migrate.OpError{Op: "copy disk " + disk}
	switch doing := h.copies.failed[j.Device]; {
	case strings.Contains(cause, "No space left on device"):
		e.Side, e.Err, e.Fix = migrate.SideDestination, fmt.Errorf("disk %s: the target is full (%s)", disk, cause), noRoomFix
	case doing == "read":
		e.Side, e.Err = migrate.SideSource, fmt.Errorf("disk %s cannot be read at the source: %s", disk, cause)
		e.Fix = "look at the storage under the source's image (dmesg tells the sector, QEMU does not); the guest runs on there"
	case doing == "write":
		e.Side, e.Err = migrate.SideDestination, fmt.Errorf("disk %s cannot be written at the destination, or the link to it broke: %s", disk, cause)
		e.Fix = "see that the link between the hosts is up, and look at the storage under the destination's image (dmesg tells the sector, QEMU does not)"
	default:
		e.Err = fmt.Errorf("the mirror of disk %s ended before its time", disk)
		if cause != "" {
			e.Err = fmt.Errorf("the mirror of disk %s: %s", disk, cause)
		}
	}
	return e
}
