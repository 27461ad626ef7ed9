package qemuhost

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// free gets a guest to run that QEMU 10.0 itself holds for good.
//
// If the link breaks between pre-switchover and the sending of the device state of a post-copy, QEMU ends its migration
// thread without leaving the state "device" ("Unknown ending state 13" in its log). The guest is whole and stands
// still, but cont is refused with "Migration is not finalized yet", and migrate_cancel changes nothing. QEMU's gdb stub
// does not ask the migration before it lets a guest run: we attach to it, continue, and take it away again. Only the
// migration stays stuck: that QEMU process can run its guest but not send it away any more.
func (h *Host) free(ctx context.Context) error {
	if busy, err := h.sending(ctx); err != nil || busy {
		return err
	}
	h.log.Warn("QEMU is stuck in its switch; letting the guest run by its gdb stub")
	dir, err := os.MkdirTemp("", "vmmigrate-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // nothing of value is in it
	sock := filepath.Join(dir, "gdb.sock")
	if err := h.human(ctx, "gdbserver unix:"+sock+",server=on,wait=off"); err != nil {
		return err
	}
	err = gdbContinue(ctx, sock)
	if off := h.human(ctx, "gdbserver none"); err == nil {
		err = off
	}
	return migrate.Fail("let the guest run by QEMU's gdb stub", migrate.SideSource, err,
		"the guest is whole in the source's QEMU; attach gdb to it and continue")
}

// sending tells whether a migration thread is still at work.
func (h *Host) sending(ctx context.Context) (bool, error) {
	var threads []json.RawMessage
	err := h.c.Execute(ctx, "query-migrationthreads", nil, &threads)
	return len(threads) > 0, ignoreRefusal(err)
}

// human runs a command of QEMU's human monitor.
func (h *Host) human(ctx context.Context, line string) error {
	_, err := qmp.HumanMonitorCommand(ctx, h.c, line)
	return err
}

// gdbContinue attaches to a gdb stub, which stops the guest, and lets it run.
func gdbContinue(ctx context.Context, sock string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", sock)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // the guest runs on when the stub's client goes
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(10 * time.Second)
	}
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := c.Write([]byte("$c#63")); err != nil {
		return err
	}
	var ack [1]byte
	if _, err := c.Read(ack[:]); err != nil {
		return err
	}
	if ack[0] != '+' {
		return fmt.Errorf("the gdb stub answered %q", ack[0])
	}
	return nil
}
