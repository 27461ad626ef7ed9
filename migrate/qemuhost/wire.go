package qemuhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// monitor is the QMP client with one difference: what fails because the connection is no more wraps ErrLinkLost.
type monitor struct{ *qmp.Client }

var _ qmp.OOBExecutor = monitor{}

// Execute runs a command.
func (m monitor) Execute(ctx context.Context, command string, args, out any) error {
	return m.lost(m.Client.Execute(ctx, command, args, out))
}

// ExecuteOOB runs a command out of band.
func (m monitor) ExecuteOOB(ctx context.Context, command string, args, out any) error {
	return m.lost(m.Client.ExecuteOOB(ctx, command, args, out))
}

// Subscribe receives events.
func (m monitor) Subscribe(o qmp.SubscribeOptions) (*qmp.Subscription, error) {
	s, err := m.Client.Subscribe(o)
	return s, m.lost(err)
}

// lost marks the errors of a connection that is no more; QEMU's refusals and ended contexts pass unchanged.
func (m monitor) lost(err error) error {
	if err == nil || m.Err() == nil || refused(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", migrate.ErrLinkLost, err)
}

// refused tells that QEMU itself answered with an error, as opposed to not answering.
func refused(err error) bool {
	var e *qmp.Error
	return errors.As(err, &e)
}

// ignoreRefusal drops QEMU's own refusal, where a race with QEMU makes it harmless; no answer stays an error.
func ignoreRefusal(err error) error {
	if refused(err) {
		return nil
	}
	return err
}

// why is QEMU's reason for a migration's failure; empty if it gives none.
func why(m qmp.MigrationInfo) string { return text(m.ErrorDesc) }

// text is what an optional string holds.
func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// look reads the migration and then the run state, so that of two things that change together the newer is the one that
// says whether the guest runs.
func (h *Host) look(ctx context.Context) (qmp.RunState, qmp.MigrationInfo, error) {
	m, err := qmp.QueryMigrate(ctx, h.c)
	if err != nil {
		return "", m, err
	}
	run, err := h.runState(ctx)
	return run, m, err
}

func (h *Host) runState(ctx context.Context) (qmp.RunState, error) {
	s, err := qmp.QueryStatus(ctx, h.c)
	return s.Status, err
}

// qomString reads a property that is a string; "" if QEMU has no such property.
func (h *Host) qomString(ctx context.Context, path, property string) (string, error) {
	var raw json.RawMessage
	if err := qmp.QOMGet(ctx, h.c, path, property, &raw); err != nil {
		return "", ignoreRefusal(err)
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return "", nil
	}
	return s, nil
}

// qomTrue tells whether a property is true; one that QEMU does not have is not.
func (h *Host) qomTrue(ctx context.Context, path, property string) bool {
	var raw json.RawMessage
	return qmp.QOMGet(ctx, h.c, path, property, &raw) == nil && string(raw) == "true"
}

// hasObject tells whether an object of that id exists.
func (h *Host) hasObject(ctx context.Context, id string) (bool, error) {
	ps, err := qmp.QOMList(ctx, h.c, "/objects")
	return slices.ContainsFunc(ps, func(p qmp.QOMProperty) bool { return p.Name == id }), err
}

// dropObject removes an object that may be absent.
func (h *Host) dropObject(ctx context.Context, id string) error {
	ok, err := h.hasObject(ctx, id)
	if err != nil || !ok {
		return err
	}
	return qmp.ObjectDel(ctx, h.c, id)
}

// ours tells whether this driver gave something in QEMU its name.
func ours(name string) bool { return strings.HasPrefix(name, prefix) }
