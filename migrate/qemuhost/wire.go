package qemuhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// migration is the part of query-migrate's answer that this driver reads. The reply leaves out what QEMU does not know.
type migration struct {
	Status     string   `json:"status"`
	Error      string   `json:"error-desc"`
	Blocked    []string `json:"blocked-reasons"`
	TotalMS    *int64   `json:"total-time"`
	SetupMS    *int64   `json:"setup-time"`
	DowntimeMS *int64   `json:"downtime"`
	ExpectedMS *int64   `json:"expected-downtime"`
	Throttle   *int64   `json:"cpu-throttle-percentage"`
	RAM        *ramInfo `json:"ram"`
	// Sockets is where a destination listens.
	Sockets []socketAddress `json:"socket-address"`
}

// ramInfo is query-migrate's account of the RAM; only a source has one.
type ramInfo struct {
	Total       int64   `json:"total"`
	Remaining   int64   `json:"remaining"`
	Transferred int64   `json:"transferred"`
	Zero        int64   `json:"duplicate"`
	Normal      int64   `json:"normal"`
	PageSize    int64   `json:"page-size"`
	Rounds      int64   `json:"dirty-sync-count"`
	DirtyPages  int64   `json:"dirty-pages-rate"`
	Mbps        float64 `json:"mbps"`
	Faults      int64   `json:"postcopy-requests"`
}

// socketAddress is QEMU's SocketAddress, flat.
type socketAddress struct {
	Type string `json:"type"`
	Host string `json:"host,omitempty"`
	Port string `json:"port,omitempty"`
	Path string `json:"path,omitempty"`
}

// job is one entry of query-jobs.
type job struct {
	ID      string `json:"id"`
	Type    string `json:"type"`
	Status  string `json:"status"`
	Current int64  `json:"current-progress"`
	Total   int64  `json:"total-progress"`
	Error   string `json:"error"`
}

// qomProperty is one entry of qom-list.
type qomProperty struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// args are a command's arguments.
type args map[string]any

// do runs a command whose answer does not matter.
func (h *Host) do(ctx context.Context, command string, a args) error {
	return h.ask(ctx, command, a, nil)
}

// ask runs a command and decodes its answer. An ended connection becomes ErrLinkLost.
func (h *Host) ask(ctx context.Context, command string, a args, out any) error {
	var v any
	if a != nil {
		v = a
	}
	return lost(h.c.Execute(ctx, command, v, out))
}

// urgent runs a command out of band, as it has to be when QEMU's main loop may be stuck in a broken connection.
func (h *Host) urgent(ctx context.Context, command string, a args) error {
	if !h.c.OOB() {
		return h.do(ctx, command, a)
	}
	var v any
	if a != nil {
		v = a
	}
	return lost(h.c.ExecuteOOB(ctx, command, v, nil))
}

// lost marks the errors of a connection that is no more; QEMU's refusals and ended contexts pass unchanged.
func lost(err error) error {
	var call *qmp.CallError
	var bad *qmp.ProtocolError
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.As(err, &call), errors.As(err, &bad), errors.Is(err, qmp.ErrClosed), errors.Is(err, qmp.ErrPeerClosed):
		return fmt.Errorf("%w: %w", migrate.ErrLinkLost, err)
	}
	return err
}

// refused tells that QEMU itself answered with an error, as opposed to not answering.
func refused(err error) bool {
	var e *qmp.Error
	return errors.As(err, &e)
}

func (h *Host) migration(ctx context.Context) (migration, error) {
	var m migration
	err := h.ask(ctx, "query-migrate", nil, &m)
	return m, err
}

func (h *Host) runState(ctx context.Context) (qmp.RunState, error) {
	s, err := qmp.QueryStatus(ctx, h.c)
	return s.Status, lost(err)
}

func (h *Host) jobs(ctx context.Context) ([]job, error) {
	var js []job
	err := h.ask(ctx, "query-jobs", nil, &js)
	return js, err
}

func (h *Host) qomList(ctx context.Context, path string) ([]qomProperty, error) {
	var ps []qomProperty
	err := h.ask(ctx, "qom-list", args{"path": path}, &ps)
	return ps, err
}

// qomString reads a property that is a string; "" if QEMU has no such property.
func (h *Host) qomString(ctx context.Context, path, property string) (string, error) {
	var raw json.RawMessage
	if err := h.ask(ctx, "qom-get", args{"path": path, "property": property}, &raw); err != nil {
		if refused(err) {
			return "", nil
		}
		return "", err
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return "", nil
	}
	return s, nil
}

// hasObject tells whether an object of that id exists under /objects.
func (h *Host) hasObject(ctx context.Context, id string) (bool, error) {
	ps, err := h.qomList(ctx, "/objects")
	for _, p := range ps {
		if p.Name == id {
			return true, err
		}
	}
	return false, err
}

// dropObject removes an object that may be absent.
func (h *Host) dropObject(ctx context.Context, id string) error {
	ok, err := h.hasObject(ctx, id)
	if err != nil || !ok {
		return err
	}
	return h.do(ctx, "object-del", args{"id": id})
}
