package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/testenv"
)

// Ways of moving a disk that are none of ours, for Row.Engine.
const (
	// Virsh is libvirt's own migration, by virsh.
	Virsh = "virsh"
	// NBDCopy copies the images and leaves the guest alone: qemu-nbd at the source,
	// nbdcopy at the destination, one of each for each image.
	NBDCopy = "nbdcopy"
)

// nbdCopyPort is the first port of NBDCopy's servers.
const nbdCopyPort = 10809

// lacks says why a row cannot run with this program, or is empty.
func (s *session) lacks(ctx context.Context, r Row) string {
	if r.Needs == "" {
		return ""
	}
	out, err := exec.CommandContext(ctx, s.Program, "migrate", "--help").CombinedOutput()
	switch {
	case err != nil:
		return fmt.Sprintf("its help cannot be read: %v", err)
	case !strings.Contains(string(out), r.Needs):
		return "vmmigrate migrate has no " + r.Needs
	}
	return ""
}

// virsh migrates the guest by libvirt alone.
func (s *session) virsh(ctx context.Context, a aim, row Row, run *Run) error {
	args := []string{"-c", a.guest.URI(a.from), "migrate", "--live", "--p2p", "--persistent", "--undefinesource"}
	if !row.Diskless {
		args = append(args, "--copy-storage-all")
	}
	args = append(append(args, row.Args...), a.guest.Name(), a.to.TLSURI())
	limit, stop := context.WithTimeout(ctx, time.Duration(s.scenario.Limit))
	defer stop()
	begin := time.Now()
	out, err := exec.CommandContext(limit, "virsh", args...).CombinedOutput()
	if err != nil {
		run.ExitCode = 1
		return fmt.Errorf("virsh: %w: %s", err, lastLines(string(out)))
	}
	total := ms(time.Since(begin))
	run.TotalMS = &total
	return nil
}

// nbdcopy copies the images of the guest's disks to files that are removed again.
func (s *session) nbdcopy(ctx context.Context, a aim, run *Run) error {
	ctx, stop := context.WithTimeout(ctx, time.Duration(s.scenario.Limit))
	defer stop()
	var wg sync.WaitGroup
	errs := make([]error, len(a.guest.Config().Disks))
	var took time.Duration
	var mu sync.Mutex
	for i := range errs {
		server, err := serveImage(ctx, a, i)
		if err != nil {
			return err
		}
		defer server.end()
		wg.Go(func() {
			begin := time.Now()
			errs[i] = fetchImage(ctx, a, i)
			mu.Lock()
			defer mu.Unlock()
			took = max(took, time.Since(begin))
		})
	}
	wg.Wait()
	t := ms(took)
	run.DisksMS, run.TotalMS = &t, &t
	return errors.Join(errs...)
}

// imageServer is a qemu-nbd.
type imageServer struct {
	cmd  *exec.Cmd
	said bytes.Buffer
}

func (s *imageServer) end() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait() // it was killed
}

// serveImage serves a disk's image, which the guest goes on writing to, at the source, and
// returns once that answers.
func serveImage(ctx context.Context, a aim, i int) (*imageServer, error) {
	image, format := a.guest.Image(a.from, i), a.guest.Config().Disks[i].Format
	opts := fmt.Sprintf("driver=%s,force-share=on,file.driver=file,file.filename=%s", format, image)
	port := strconv.Itoa(nbdCopyPort + i)
	s := &imageServer{cmd: exec.Command("qemu-nbd", "--read-only", "--persistent", "--shared=8", "--port="+port, "--image-opts", opts)}
	s.cmd.Stderr = &s.said
	if err := a.from.Start(s.cmd); err != nil {
		return nil, err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := a.to.Dial(ctx, "tcp", net.JoinHostPort(a.from.Address().String(), port))
		if err == nil {
			return s, c.Close()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.end()
			return nil, fmt.Errorf("qemu-nbd: %w: %s", err, lastLines(s.said.String()))
		}
	}
}

// fetchImage copies a served image at the destination.
func fetchImage(ctx context.Context, a aim, i int) error {
	copied := filepath.Join(a.to.ImagesDir(), fmt.Sprintf("nbdcopy-%d", i))
	defer os.Remove(copied)
	_, err := a.to.Output(ctx, "nbdcopy", fmt.Sprintf("nbd://%s:%d", a.from.Address(), nbdCopyPort+i), copied)
	return err
}

// allocated is what the images of the guest's disks take on a host.
func allocated(g *testenv.Guest, h *testenv.Host) (float64, error) {
	var sum int64
	for i := range g.Config().Disks {
		var st unix.Stat_t
		if err := unix.Stat(g.Image(h, i), &st); err != nil {
			return 0, fmt.Errorf("%s: %w", g.Image(h, i), err)
		}
		sum += st.Blocks * 512
	}
	return float64(sum), nil
}

// mirrors looks every few milliseconds at the mirrors of a QEMU: how long they took until all
// were in step. It ends with its context.
type mirrors struct {
	done chan struct{}
	took time.Duration // once done is closed; 0 is not known
}

// mirrorStep is the time between two looks.
const mirrorStep = 20 * time.Millisecond

func watchMirrors(ctx context.Context, socket string) *mirrors {
	m := &mirrors{done: make(chan struct{})}
	go func() {
		defer close(m.done)
		c, err := qmp.Dial(ctx, "unix", socket)
		if err != nil {
			return // the guest has no monitor of its own: then it is not known
		}
		defer c.Close()
		m.look(ctx, c)
	}()
	return m
}

// mirrorJob is what is looked at of a block job.
type mirrorJob struct {
	Device string
	Ready  bool
}

// ofAgents tells that it mirrors new writes only, while agents copy the rest: it is ready from the start.
func (j mirrorJob) ofAgents() bool { return strings.HasPrefix(j.Device, "vmm-reuse-") }

func (m *mirrors) look(ctx context.Context, c *qmp.Client) {
	tick := time.NewTicker(mirrorStep)
	defer tick.Stop()
	var begun time.Time
	for {
		var jobs []mirrorJob
		if err := c.Execute(ctx, "query-block-jobs", nil, &jobs); err != nil {
			return // QEMU is gone, or the run is over
		}
		if slices.ContainsFunc(jobs, mirrorJob.ofAgents) {
			return // the program's report tells
		}
		ready := len(jobs) > 0
		for _, j := range jobs {
			ready = ready && j.Ready
		}
		switch {
		case len(jobs) > 0 && begun.IsZero():
			begun = time.Now()
		case ready && m.took == 0:
			m.took = time.Since(begun)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// readsAfter measures how long the guest's reads take from when it runs at the destination on.
func (s *session) readsAfter(ctx context.Context, a aim, workload string) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if h, err := a.guest.Host(ctx); err == nil && h.Name() == a.to.Name() {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
	o, err := a.guest.Oracle(ctx)
	if err != nil {
		return
	}
	defer o.Close()
	_ = o.SetWorkload(ctx, workload) // without it the reads before count, too
}

// reads fills in how long the guest's reads took.
func (s *session) reads(ctx context.Context, a aim, run *Run) error {
	o, err := a.guest.Oracle(ctx)
	if err != nil {
		return err
	}
	defer o.Close()
	st, err := o.Stats(ctx)
	if err != nil {
		return err
	}
	us := func(d time.Duration) *float64 { v := float64(d.Nanoseconds()) / 1e3; return &v }
	if st.Reads.Max > 0 {
		run.ReadP50US, run.ReadP99US = us(st.Reads.P50), us(st.Reads.P99)
	}
	return nil
}

// way makes the migration that a row wants, and measures the disks.
func (s *session) way(ctx context.Context, a aim, row Row, workload string, run *Run) error {
	if row.Diskless || len(a.guest.Config().Disks) == 0 {
		return s.migrate(ctx, a, row, run)
	}
	bytes, err := allocated(a.guest, a.from)
	if err != nil {
		return err
	}
	// A row that fills holes would make the next one look fast.
	if s.leastBytes == 0 || bytes < s.leastBytes {
		s.leastBytes = bytes
	}
	bytes = s.leastBytes
	defer func() { // the program's report has replaced the figures
		run.DiskBytes = &bytes
		run.perSecond()
	}()
	if row.Engine == NBDCopy {
		return s.nbdcopy(ctx, a, run)
	}
	looking, stop := context.WithCancel(ctx)
	m := watchMirrors(looking, a.guest.Monitor(a.from))
	var after sync.WaitGroup
	if row.Needs != "" {
		after.Go(func() { s.readsAfter(looking, a, workload) })
	}
	err = s.migrate(ctx, a, row, run)
	if err == nil {
		err = s.reads(ctx, a, run)
	}
	stop()
	<-m.done
	after.Wait()
	if m.took > 0 { // seen from outside, in the same way for all
		took := ms(m.took)
		run.DisksMS = &took
	}
	return err
}

// perSecond works out the speed.
func (run *Run) perSecond() {
	if run.DisksMS != nil && run.DiskBytes != nil && *run.DisksMS > 0 {
		speed := *run.DiskBytes / (1 << 20) / *run.DisksMS * 1000
		run.DiskSpeed = &speed
	}
}

func (s *session) migrate(ctx context.Context, a aim, row Row, run *Run) error {
	if row.Engine == Virsh {
		return s.virsh(ctx, a, row, run)
	}
	return s.program(ctx, append(a.args, row.arguments()...), run)
}
