package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// findQEMU holds on to the guest's QEMU and makes sure that it is the guest's. The caller closes it.
func findQEMU(ctx context.Context, g agent.Guest) (*sys.Process, error) {
	pid, err := claimedQEMU(ctx, g)
	if err != nil {
		return nil, err
	}
	p, err := sys.OpenProcess(pid)
	if err != nil {
		return nil, fmt.Errorf("process %d of guest %q: %w", pid, g.Name, err)
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	switch {
	case err != nil:
		err = fmt.Errorf("process %d of guest %q: %w", pid, g.Name, err)
	case g.UUID != "" && bytes.Contains(line, []byte("\x00-uuid\x00")) && !bytes.Contains(bytes.ToLower(line), []byte(strings.ToLower(g.UUID))):
		err = fmt.Errorf("process %d is not the QEMU of guest %q (%s)", pid, g.Name, g.UUID)
	case !p.Alive(): // then it was another's
		err = fmt.Errorf("process %d of guest %q has ended: %w", pid, g.Name, os.ErrProcessDone)
	default:
		return p, nil
	}
	return nil, errors.Join(err, p.Close())
}

func claimedQEMU(ctx context.Context, g agent.Guest) (int, error) {
	switch {
	case g.PID > 0:
		return g.PID, nil
	case g.PIDFile != "":
		raw, err := os.ReadFile(g.PIDFile)
		if err != nil {
			return 0, fmt.Errorf("process number of guest %q: %w", g.Name, err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
		if err != nil || pid <= 0 {
			return 0, fmt.Errorf("process number of guest %q: %s holds %q", g.Name, g.PIDFile, raw)
		}
		return pid, nil
	case g.Monitor != "":
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", g.Monitor)
		if err != nil {
			return 0, err
		}
		defer c.Close()
		peer, err := sys.PeerOf(c.(*net.UnixConn))
		if err == nil && peer.PID == 0 {
			err = errors.New("its process is out of sight")
		}
		return peer.PID, err
	}
	return 0, errors.New("it was not said how to find the guest's QEMU")
}

// monitor is a QMP connection of our own to the destination's QEMU; nil where its driver holds the only one.
type monitor struct{ c *qmp.Client }

const capShared = "x-ignore-shared"

// openMonitor connects and makes QEMU expect a stream without shared RAM.
func openMonitor(ctx context.Context, path string) (*monitor, error) {
	if path == "" {
		return nil, nil
	}
	c, err := qmp.Dial(ctx, "unix", path)
	if err != nil {
		return nil, migrate.Fail("reach the second monitor", migrate.SideDestination, err, "")
	}
	if err := qmp.SetMigrateCapabilities(ctx, c, qmp.Capabilities{capShared: true}); err != nil {
		return nil, errors.Join(migrate.Fail("leave shared RAM out of QEMU's stream", migrate.SideDestination, err, ""), c.Close())
	}
	return &monitor{c}, nil
}

// close sets QEMU back, so that its next migration sends RAM again.
func (m *monitor) close(ctx context.Context) error {
	if m == nil {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	return errors.Join(qmp.SetMigrateCapabilities(ctx, m.c, qmp.Capabilities{capShared: false}), m.c.Close())
}

// locate fills in where QEMU has mapped the regions.
func (m *monitor) locate(ctx context.Context, regions []agent.Region) error {
	if m == nil {
		return nil
	}
	blocks, err := qmp.QueryRAMBlocks(ctx, m.c)
	if err != nil {
		return err
	}
	for i, r := range regions {
		found, err := mapped(blocks, r.Block)
		if err != nil {
			return err
		}
		regions[i].Addr = found
	}
	return nil
}

// mapped finds a block's place.
func mapped(blocks []qmp.RAMBlock, want ram.Block) (uint64, error) {
	for _, b := range blocks {
		if b.Name != want.Name {
			continue
		}
		if b.HostAddress == nil || int64(b.Used) != want.Size || int64(b.PageSize) != want.PageSize {
			return 0, fmt.Errorf("RAM block %q has %d MiB in pages of %d KiB here and %d MiB in pages of %d KiB at the source",
				b.Name, b.Used>>20, b.PageSize>>10, want.Size>>20, want.PageSize>>10)
		}
		return *b.HostAddress, nil
	}
	return 0, fmt.Errorf("RAM block %q of the source is not there", want.Name)
}
