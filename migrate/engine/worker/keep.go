package worker

import (
	"context"
	"os"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/engine/worker/kept"
)

// KeepDirs are the folders in which copies of guests' RAM are kept unless the agent is told another: the first of which the
// parent is there. Where libvirt's images are there is room, mostly.
func KeepDirs() []string { return []string{"/var/lib/libvirt/vmmigrate-ram", "/var/lib/vmmigrate/ram"} }

// KeepDir is the one of them on this host.
func KeepDir() string {
	all := KeepDirs()
	if info, err := os.Stat("/var/lib/libvirt"); err == nil && info.IsDir() {
		return all[0]
	}
	return all[1]
}

// kept is where copies of RAM are.
func (w *Worker) kept() kept.Store {
	s := kept.Store{Dir: w.o.KeepDir, Limit: w.o.KeepLimit}
	if s.Dir == "" {
		s.Dir = KeepDir()
	}
	return s
}

// Keep implements agent.Source.
func (s *sourceEnd) Keep(ctx context.Context, progress func(agent.Progress)) (agent.Progress, error) {
	const op = "keep a copy of the guest's RAM"
	if !s.qemu.Alive() {
		return agent.Progress{}, migrate.Fail(op, migrate.SideSource, os.ErrProcessDone, "")
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var last agent.Progress
	tell := func(done, total int64) {
		last = agent.Progress{Bytes: done, Remaining: total - done}
		progress(last)
		if err := s.w.spoiled(ctx, "keep"); err != nil {
			stop(err)
		}
	}
	parts := make([]kept.Part, len(s.mem.parts))
	for i, p := range s.mem.parts {
		parts[i] = kept.Part{Block: p.Block, File: p.file, Base: p.base}
	}
	info, err := s.w.kept().Keep(ctx, kept.Guest{UUID: s.spec.Guest.UUID, Name: s.spec.Guest.Name}, parts, tell)
	if err != nil {
		return last, migrate.Fail(op, migrate.SideSource, err, "")
	}
	s.w.o.Log.Info("a copy of the guest's RAM is kept", "guest", info.Guest, "uuid", info.UUID, "bytes", info.Bytes(), "dir", s.w.kept().Dir)
	return agent.Progress{Bytes: info.Bytes()}, nil
}
