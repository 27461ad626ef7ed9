package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/testenv/internal/domain"
	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
)

// A guest of a bare lab is a QEMU that the lab starts itself. Its monitor is for
// whoever migrates it; the lab looks at it through another one, and starts the QEMU
// that waits at the other end when it is asked to (Guest.Await).

// joinScript connects a tap device to the guests' network of its host.
const joinScript = "#!/bin/sh\nexec ip link set \"$1\" master " + layout.GuestBridge + " up\n"

// inRun is a file of the guest in the host's /run, as the host and as the machine
// see it.
func (h *Host) inRun(name string) (inside, outside string) {
	return "/run/vmmigrate/" + name, filepath.Join(h.host.Run(), "vmmigrate", name)
}

// watchSocket is the lab's own monitor of the guest's QEMU on the host.
func (g *Guest) watchSocket(h *Host) (inside, outside string) { return h.inRun(g.Name() + ".lab") }

// startQEMU starts a QEMU for the guest on the host and returns when its monitors
// can be reached.
func (g *Guest) startQEMU(ctx context.Context, h *Host, incoming bool) error {
	spec, err := g.config.domainSpec(ctx, g.place)
	if err != nil {
		return err
	}
	join, joinOutside := h.inRun("join")
	if err := os.WriteFile(joinOutside, []byte(joinScript), 0o755); err != nil {
		return err
	}
	for i := range spec.Disks { // bare hosts see the machine's directories
		spec.Disks[i].Path = g.Image(h, i)
	}
	spec.Console, _ = h.inRun(g.Name() + ".console")
	spec.Monitor = layout.MonitorPath(g.Name())
	files := domain.Files{Join: join, Tap: "tap" + g.place.MAC[len(g.place.MAC)-2:]}
	files.Watch, _ = g.watchSocket(h)
	files.Pid, _ = h.inRun(g.Name() + ".pid")
	// QEMU would take what an earlier one left in these files for RAM.
	clean := []string{"-f", domain.RAMFile(spec, "pc.ram")}
	for i := range g.config.NUMA {
		clean = append(clean, domain.RAMFile(spec, fmt.Sprintf("ram-node%d", i)))
	}
	if _, err := h.Output(ctx, "rm", clean...); err != nil {
		return err
	}
	_, err = h.Output(ctx, "qemu-system-x86_64", domain.Args(spec, files, incoming)...)
	return err
}

// Await starts a QEMU on the host that waits for the guest to migrate there, in
// place of one that is there and does not run the guest, with empty disks for it.
// Only guests of a bare lab need it.
func (g *Guest) Await(ctx context.Context, h *Host) error {
	if !g.lab.state.Plan.Bare {
		return errors.New("libvirt starts the QEMU that waits for a guest itself")
	}
	switch p := g.qemuState(ctx, h); p.State {
	case StateAbsent:
	case StateRunning, StateUnknown:
		return fmt.Errorf("guest %s on host %s: %s %s; nothing can wait there", g.Name(), h.Name(), p.State, p.Error)
	default:
		if err := g.quitQEMU(ctx, h); err != nil {
			return err
		}
	}
	if err := g.emptyDisks(ctx, h); err != nil {
		return err
	}
	if err := g.startQEMU(ctx, h, true); err != nil {
		return fmt.Errorf("wait for guest %s on host %s: %w", g.Name(), h.Name(), err)
	}
	return nil
}

// withQEMU runs fn on the lab's own monitor of the guest's QEMU. The error wraps
// ENOENT or ECONNREFUSED if there is none.
func (g *Guest) withQEMU(ctx context.Context, h *Host, fn func(*qmp.Client) error) error {
	_, socket := g.watchSocket(h)
	c, err := qmp.Dial(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	return fn(c)
}

// Resume lets the guest of a bare lab run that stands still on the host.
func (g *Guest) Resume(ctx context.Context, h *Host) error {
	return g.withQEMU(ctx, h, func(c *qmp.Client) error { return c.Execute(ctx, "cont", nil, nil) })
}

// gone reports whether an error of withQEMU says that there is no QEMU.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED)
}

// qemuState asks the host's QEMU how the guest is, in libvirt's words.
func (g *Guest) qemuState(ctx context.Context, h *Host) Presence {
	p := Presence{Host: h.Name(), State: StateAbsent}
	err := g.withQEMU(ctx, h, func(c *qmp.Client) error {
		var s struct {
			Status string `json:"status"`
		}
		err := c.Execute(ctx, "query-status", nil, &s)
		switch p.State = "paused"; s.Status {
		case "running":
			p.State = StateRunning
		case "shutdown":
			p.State = "shut off"
		case "guest-panicked", "internal-error":
			p.State = "crashed"
		}
		return err
	})
	switch {
	case gone(err):
		p.State = StateAbsent
	case err != nil:
		p.State, p.Error = StateUnknown, err.Error()
	}
	return p
}

// quitStep is the time between two looks at a QEMU that was told to quit.
const quitStep = 5 * time.Millisecond

// quitQEMU ends the host's QEMU of the guest, if there is one, and waits for it.
func (g *Guest) quitQEMU(ctx context.Context, h *Host) error {
	ctx, stop := context.WithTimeout(ctx, wherePatience)
	defer stop()
	if err := g.withQEMU(ctx, h, func(c *qmp.Client) error {
		_ = c.Execute(ctx, "quit", nil, nil) // it may be gone before it answers
		return nil
	}); gone(err) {
		return nil
	}
	step := time.NewTicker(quitStep)
	defer step.Stop()
	for g.qemuState(ctx, h).State != StateAbsent {
		select {
		case <-step.C:
		case <-ctx.Done():
			return g.killQEMU(context.WithoutCancel(ctx), h)
		}
	}
	return nil
}

// killQEMU ends one that does not quit. QEMU's file with its number goes with it, so
// that the number in it is its own.
func (g *Guest) killQEMU(ctx context.Context, h *Host) error {
	pid, _ := h.inRun(g.Name() + ".pid")
	_, err := h.Output(ctx, "sh", "-c", `kill -9 "$(cat "$1")" && rm -f "$1"`, "kill", pid)
	return err
}

// startBare makes the guest run on a host without libvirtd.
func (g *Guest) startBare(ctx context.Context, h *Host) error {
	if err := g.makeDisks(ctx, h); err != nil {
		return err
	}
	if err := g.borrowPages(ctx); err != nil {
		return err
	}
	if err := g.startQEMU(ctx, h, false); err != nil {
		return err
	}
	return g.watched(ctx, h)
}
