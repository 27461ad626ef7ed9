package libvirthost

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// libvirt copies disks by itself, within Perform. What can be done about it from outside:
//
//	see      the block job of each disk, at any time
//	cap      by the migration's bandwidth, in MiB a second, which libvirt gives to each mirror as it starts it, and exactly
//	         by an order to the block job once it runs, which libvirt lets through while it migrates. What the migration's
//	         bandwidth is changed to later holds for RAM alone
//	follow   the guest's writes wait for the destination from the start, or never
//	errors   any ends the migration, a full target too; the disk is named in the text alone, and the side not at all
//	end      an abort waits for what the mirror has on its way. Where the link is dead that is until TCP gives up, so
//	         its connections have to be closed

// copies watches the disks that libvirt copies within a Perform.
type copies struct {
	h     *Host
	d     libvirt.Domain
	disks []string
	p     migrate.Params
	pilot *migrate.DiskPilot
	began time.Time
	raise bool // RAM's cap is another than that of the disks, which the migration begins with
	// ticket is where the guest is sent to; empty where the daemon knows that alone.
	ticket migrate.Ticket

	ctx    context.Context // of the call that is watched
	leave  context.CancelCauseFunc
	stop   context.CancelFunc
	wg     sync.WaitGroup
	ended  time.Time // when the migration was ended from here
	broken bool      // its connections were closed
	seen   map[string]migrate.DiskSample

	mu    sync.Mutex
	cap   int64            // of all disks together
	told  map[string]int64 // the speed that each mirror was given
	mute  bool             // libvirt takes no order for them
	moved bool             // the cap is a new one, of which the pilot was not told
	last  map[string]migrate.DiskStats
	why   error // why the migration was ended from here
}

// copiesPoll is the time between two looks at the block jobs.
const copiesPoll = 200 * time.Millisecond

// answerWithin is how long libvirt may take to answer before its QEMU counts as silent.
const answerWithin = 5 * time.Second

// copied lists the disks that libvirt is to copy.
func (h *Host) copied(ctx context.Context, d libvirt.Domain, p migrate.Params) ([]string, error) {
	if p.CopyStorage != migrate.CopyAll && p.CopyStorage != migrate.CopyInc || p.Resume {
		return nil, nil
	}
	text, err := slowLook(ctx, h.c, func(l *libvirt.Libvirt) (string, error) { return l.DomainGetXMLDesc(d, 0) })
	if err != nil {
		return nil, err
	}
	f, err := FactsOf(text)
	var out []string
	for _, disk := range f.Disks {
		if p.Copies(disk) {
			out = append(out, disk.Target)
		}
	}
	return out, err
}

// mirrorCap is the cap with which each of n mirrors begins, in bytes a second; 0 is none. libvirt takes 1 MiB/s at least.
func mirrorCap(p migrate.Params, n int) int64 {
	if n == 0 || p.DiskCap() == 0 {
		return 0
	}
	return max(p.DiskCap()/int64(n), miB)
}

// copyParams are the parameters with which libvirt is to begin: the cap is that of each mirror.
func (h *Host) copyParams(ctx context.Context, d libvirt.Domain, p migrate.Params) (migrate.Params, []string, error) {
	disks, err := h.copied(ctx, d, p)
	if err != nil {
		return p, nil, err
	}
	if each := mirrorCap(p, len(disks)); each > 0 {
		p.Bandwidth = each
	}
	return p, disks, nil
}

// watchCopies looks after the copies of a call that is about to be made with the context that it returns; end has to be called.
func (h *Host) watchCopies(ctx context.Context, d libvirt.Domain, disks []string, asked, begun migrate.Params, t migrate.Ticket) (context.Context, *copies) {
	w := &copies{h: h, d: d, disks: disks, p: asked, ticket: t, began: time.Now(), last: map[string]migrate.DiskStats{},
		cap: asked.DiskCap(), told: map[string]int64{}, seen: map[string]migrate.DiskSample{},
		raise: mibpsOrNone(asked.Bandwidth) != mibpsOrNone(begun.Bandwidth),
		pilot: migrate.NewDiskPilot(migrate.DiskPilotConfig{Idle: asked.DiskIdle, Bandwidth: asked.DiskCap(), MaxDowntime: asked.MaxDowntime})}
	w.ctx, w.leave = context.WithCancelCause(ctx)
	var look context.Context
	look, w.stop = context.WithCancel(context.Background())
	h.held.watch(d, w)
	if len(disks) > 0 {
		w.wg.Go(func() { w.run(look) })
	}
	return w.ctx, w
}

func mibpsOrNone(n int64) uint64 {
	if n <= 0 {
		return math.MaxInt64 / miB // as libvirt itself counts "no cap"
	}
	return mibps(n)
}

// end stops watching and gives the reason of a migration that was ended from here.
func (w *copies) end(err error) error {
	w.stop()
	w.wg.Wait()
	w.leave(nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil || w.why == nil {
		return err
	}
	if errors.Is(err, migrate.ErrLinkLost) {
		return &migrate.OpError{Op: "copy the disks", Side: migrate.SideSource, Err: errors.Join(w.why, err), Fix: migrate.FixOf(w.why)}
	}
	return w.why
}

func (w *copies) run(ctx context.Context) {
	tick := time.NewTicker(copiesPoll)
	defer tick.Stop()
	for {
		w.look(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		case <-w.h.c.w.dead:
			return
		}
	}
}

// look reads the block jobs once and does what they call for.
func (w *copies) look(ctx context.Context) {
	if !w.ended.IsZero() {
		w.insist(ctx)
		return
	}
	var samples []migrate.DiskSample
	silent := false
	for _, disk := range w.disks {
		s, ok := w.seen[disk], true
		if !silent {
			s, ok, silent = w.ask(ctx, disk)
		}
		if ok && s.Name != "" {
			samples = append(samples, s)
		}
	}
	if len(samples) == 0 {
		return // not begun, or over
	}
	if w.raise {
		w.raise = !w.raiseRAM(ctx)
	}
	w.share(ctx, samples)
	for _, m := range w.pilot.Step(time.Since(w.began), samples) {
		w.follow(ctx, m)
	}
}

// ask reads the block job of a disk. A QEMU that waits for a dead link in its main loop does not answer, and neither does
// libvirt then: that is silent, and the disk is as it was.
func (w *copies) ask(ctx context.Context, disk string) (s migrate.DiskSample, ok, silent bool) {
	short, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	s, ok = w.sample(short, disk)
	if silent = !ok && short.Err() != nil && ctx.Err() == nil; silent {
		return w.seen[disk], true, true
	}
	if ok {
		w.seen[disk] = s
	}
	return s, ok, false
}

// sample reads the block job of a disk; not ok if there is none.
func (w *copies) sample(ctx context.Context, disk string) (migrate.DiskSample, bool) {
	type job struct {
		found    int32
		cur, end uint64
	}
	j, err := slowLook(ctx, w.h.c, func(l *libvirt.Libvirt) (job, error) {
		found, _, _, cur, end, err := l.DomainGetBlockJobInfo(w.d, disk, 0)
		return job{found, cur, end}, err
	})
	if err != nil || j.found == 0 {
		return migrate.DiskSample{}, false
	}
	total, sent, left := int64(j.end), int64(j.cur), int64(j.end)-int64(j.cur)
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.last[disk]
	d.Name, d.Way, d.Writes, d.Total, d.Sent, d.Remaining = disk, migrate.WayMirror, migrate.WritesBackground, &total, &sent, &left
	if w.p.SynchronousWrites {
		d.Writes = migrate.WritesBlocking
	}
	d.InStep = d.InStep || total > 0 && left == 0
	w.last[disk] = d
	return migrate.DiskSample{Name: disk, Total: total, Sent: sent, InStep: d.InStep, Blocking: w.p.SynchronousWrites}, true
}

// raiseRAM gives RAM its own cap, now that the mirrors have got theirs.
func (w *copies) raiseRAM(ctx context.Context) bool {
	short, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	_, err := do(short, w.h.c, func(l *libvirt.Libvirt) (struct{}, error) {
		return struct{}{}, l.DomainMigrateSetMaxSpeed(w.d, mibpsOrNone(w.p.Bandwidth), 0)
	})
	if err != nil && ctx.Err() == nil {
		w.h.log.Warn("the cap of RAM could not be set apart from that of the disks", "domain", w.d.Name, "err", err)
	}
	return err == nil
}

// follow does what the pilot says, as far as libvirt lets one.
func (w *copies) follow(ctx context.Context, m migrate.DiskMove) {
	switch m.Kind {
	case migrate.DiskBehind:
		w.advise(m.Disk, "the copy does not get ahead of the guest ("+m.Why+
			"): --copy-storage-synchronous-writes makes the guest's writes wait for the destination; libvirt cannot be told so while it copies")
	case migrate.DiskStuck:
		if !w.ended.IsZero() {
			return
		}
		w.ended = time.Now()
		w.mu.Lock()
		w.why = &migrate.OpError{Op: "copy disk " + m.Disk, Side: migrate.SideSource, Err: fmt.Errorf("disk %s: %s", m.Disk, m.Why),
			Fix: "see that the link between the hosts is up and that both storages answer (dmesg), or allow more time with --disk-idle; then migrate again"}
		w.mu.Unlock()
		short, cancel := context.WithTimeout(ctx, breakAfter)
		defer cancel()
		if _, err := do(short, w.h.c, func(l *libvirt.Libvirt) (struct{}, error) { return struct{}{}, l.DomainAbortJob(w.d) }); err != nil {
			w.h.log.Warn("a copy that moves nothing could not be ended", "domain", w.d.Name, "disk", m.Disk, "err", err)
		}
	}
}

// How long an abort may take before the connections are closed, and then before the call is left.
const (
	breakAfter = 3 * time.Second
	leaveAfter = 30 * time.Second
)

// insist helps an abort along that waits for a dead link.
func (w *copies) insist(ctx context.Context) {
	switch since := time.Since(w.ended); {
	case since >= leaveAfter:
		w.leave(fmt.Errorf("%w: libvirt does not end the migration within %v", migrate.ErrLinkLost, leaveAfter))
	case since >= breakAfter && !w.broken:
		w.broken = true
		if err := w.h.Sever(ctx, w.d.Name, w.ticket); err != nil {
			w.h.log.Warn("the connections of a copy that moves nothing could not be closed", "domain", w.d.Name, "err", err)
		}
	}
}

// share gives each mirror its part of the cap, where that has changed.
func (w *copies) share(ctx context.Context, samples []migrate.DiskSample) {
	w.mu.Lock()
	limit, mute := w.cap, w.mute
	if w.moved {
		w.moved = false
		w.pilot.SetCap(limit)
	}
	w.mu.Unlock()
	if limit <= 0 || mute {
		return
	}
	inStep := make([]bool, len(w.disks)) // one that is not seen yet is about to begin
	for i, disk := range w.disks {
		inStep[i] = slices.ContainsFunc(samples, func(s migrate.DiskSample) bool { return s.Name == disk && s.InStep })
	}
	for i, n := range migrate.DiskShares(limit, inStep) {
		if err := w.setSpeed(ctx, w.disks[i], n); err != nil {
			w.advise(w.disks[i], fmt.Sprintf("libvirt takes no speed for its copy while it migrates (%v): the cap is as it was at the start, in whole MiB/s", err))
			w.mu.Lock()
			w.mute = true
			w.mu.Unlock()
			return
		}
	}
}

// setSpeed gives a mirror its speed in bytes a second. A disk that has no job has none yet, or none any more.
func (w *copies) setSpeed(ctx context.Context, disk string, n int64) error {
	w.mu.Lock()
	_, seen := w.last[disk]
	same := w.told[disk] == n
	w.mu.Unlock()
	if !seen || same {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	_, err := do(ctx, w.h.c, func(l *libvirt.Libvirt) (struct{}, error) {
		return struct{}{}, l.DomainBlockJobSetSpeed(w.d, disk, uint64(n), libvirt.DomainBlockJobSpeedBandwidthBytes)
	})
	if err != nil && ctx.Err() == nil {
		if _, ok := w.sample(ctx, disk); !ok {
			return nil
		}
	}
	if err == nil {
		w.mu.Lock()
		w.told[disk] = n
		w.mu.Unlock()
	}
	return err
}

// setCap changes the cap of all disks while they are copied.
func (w *copies) setCap(ctx context.Context, limit int64) error {
	w.mu.Lock()
	w.cap, w.moved = limit, true
	inStep := make([]bool, len(w.disks))
	for i, disk := range w.disks {
		inStep[i] = w.last[disk].InStep
	}
	w.mu.Unlock()
	for i, n := range migrate.DiskShares(limit, inStep) {
		if err := w.setSpeed(ctx, w.disks[i], n); err != nil {
			return err
		}
	}
	return nil
}

func (w *copies) advise(disk, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.last[disk]
	d.Advice = text
	w.last[disk] = d
}

// add adds to a job's figures what is known of each disk. Once the block jobs are gone these are the last that were read; the
// sum is libvirt's own.
func (w *copies) add(s *migrate.Stats) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, disk := range w.disks {
		if d, ok := w.last[disk]; ok {
			s.Disks = append(s.Disks, d)
		}
	}
	if len(s.Disks) == 1 && len(w.disks) == 1 && s.DiskTotal != nil && s.DiskSent != nil {
		d := &s.Disks[0]
		d.Total, d.Sent, d.Remaining = s.DiskTotal, s.DiskSent, s.DiskRemaining
	}
}

// diskFix is what can be done about a disk's copy that failed. libvirt tells the disk and QEMU's words for it, and not at
// which end it was.
func diskFix(err error) string {
	const sign = "migration of disk "
	text := err.Error()
	i := strings.Index(text, sign)
	if i < 0 {
		return ""
	}
	disk, _, _ := strings.Cut(text[i+len(sign):], " ")
	switch {
	case strings.Contains(text, "No space left on device"):
		return "the target of disk " + disk + " is full: free some space at the destination, or give the disk another path with --disk; then migrate again"
	case strings.Contains(text, "Input/output error"):
		return "see that the link between the hosts is up, and look at the storage of disk " + disk +
			" at both ends (dmesg, and QEMU's log in /var/log/libvirt/qemu): libvirt does not tell which one failed"
	}
	return "QEMU's logs at both ends (/var/log/libvirt/qemu) say more of disk " + disk
}
