package qemuhost

import (
	"context"
	"encoding/json"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// QEMU's names of the events that mean something to a migration.
const (
	eventStop      = "STOP"
	eventResume    = "RESUME"
	eventPass      = "MIGRATION_PASS"
	eventMigration = "MIGRATION"
	eventShutdown  = "SHUTDOWN"
	eventIOError   = "BLOCK_IO_ERROR"
	eventJob       = "JOB_STATUS_CHANGE"
)

// watchQueue is how many events a slow reader of Watch may be behind before it loses some.
const watchQueue = 256

// Watch delivers the guest's events with QEMU's time stamps. EventMigration and EventRound come only once a migration
// has set QEMU up to report them.
func (h *Host) Watch(ctx context.Context, name string) (<-chan migrate.GuestEvent, error) {
	const op = "watch the guest"
	if err := h.find(name, ""); err != nil {
		return nil, migrate.Fail(op, "", err, "")
	}
	sub, err := h.c.Subscribe(qmp.SubscribeOptions{
		Names: []string{eventStop, eventResume, eventPass, eventMigration, eventShutdown, eventIOError}, Queue: watchQueue})
	if err != nil {
		return nil, migrate.Fail(op, "", err, "")
	}
	out := make(chan migrate.GuestEvent, watchQueue)
	h.wg.Go(func() { h.forward(ctx, sub, out) })
	return out, nil
}

// forward translates events until ctx, the Host or the connection ends.
func (h *Host) forward(ctx context.Context, sub *qmp.Subscription, out chan<- migrate.GuestEvent) {
	defer close(out)
	defer sub.Close()
	for {
		select {
		case e, ok := <-sub.C():
			if !ok {
				return
			}
			select {
			case out <- translate(e):
			default: // the reader is too slow and loses it
			}
		case <-ctx.Done():
			return
		case <-h.ctx.Done():
			return
		}
	}
}

// translate turns QEMU's event into ours.
func translate(e qmp.Event) migrate.GuestEvent {
	out := migrate.GuestEvent{At: e.Timestamp, Seen: e.Arrived}
	if out.Seen.IsZero() {
		out.Seen = time.Now()
	}
	var data struct {
		Status string `json:"status"`
		Pass   int    `json:"pass"`
		Reason string `json:"reason"`
		Device string `json:"device"`
		Node   string `json:"node-name"`
	}
	if len(e.Data) > 0 {
		_ = json.Unmarshal(e.Data, &data) // what is not as expected stays zero: an event must not end a migration
	}
	switch e.Name {
	case eventStop:
		out.Kind = migrate.EventStop
	case eventResume:
		out.Kind = migrate.EventResume
	case eventPass:
		out.Kind, out.Round = migrate.EventRound, data.Pass
	case eventMigration:
		out.Kind, out.Detail = migrate.EventMigration, data.Status
	case eventShutdown:
		out.Kind, out.Detail = migrate.EventShutdown, data.Reason
	case eventIOError:
		out.Kind, out.Detail = migrate.EventIOError, data.Device
		if out.Detail == "" {
			out.Detail = data.Node
		}
	}
	return out
}
