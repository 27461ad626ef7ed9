package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// errorKey is where an error travels, beside gRPC's own code and text: JSON in a trailer.
const errorKey = "vmmigrate-error-bin"

const (
	maxErrorText  = 4096
	maxErrorDepth = 8
)

// sentinel is an error that keeps its identity across the wire.
type sentinel struct {
	name string
	err  error
}

// sentinels have names of their own, since the texts may change.
func sentinels() []sentinel {
	return []sentinel{
		{"no-domain", migrate.ErrNoDomain}, {"not-supported", migrate.ErrNotSupported}, {"blocked", migrate.ErrBlocked},
		{"cancelled", migrate.ErrCancelled}, {"time-limit", migrate.ErrTimeLimit}, {"paused", migrate.ErrPaused},
		{"owner-unknown", migrate.ErrOwnerUnknown}, {"not-landed", migrate.ErrNotLanded}, {"link-lost", migrate.ErrLinkLost},
		{"busy", migrate.ErrBusy}, {"mute", migrate.ErrMute}, {"detached", migrate.ErrDetached}, {"not-undone", migrate.ErrNotUndone},
		{"not-released", migrate.ErrNotReleased}, {"not-begun", migrate.ErrNotBegun}, {"no-migration", migrate.ErrNoMigration},
		{"version", ErrVersion}, {"closed", ErrClosed},
		{"context-canceled", context.Canceled}, {"context-deadline", context.DeadlineExceeded},
		{"exists", storage.ErrExists}, {"no-room", storage.ErrNoRoom}, {"in-use", storage.ErrInUse}, {"foreign", storage.ErrForeign},
		{"no-tool", storage.ErrNoTool}, {"not-made", storage.ErrUnsupported},
		{"deadline", os.ErrDeadlineExceeded}, {"not-exist", fs.ErrNotExist}, {"permission", fs.ErrPermission},
	}
}

// wireError is an error on the wire: one that is an *migrate.OpError itself has Op with Top, and no text; of all others the
// text is kept, the sentinels they wrap and the first OpError in them.
type wireError struct {
	Text string   `json:"text,omitempty"`
	Is   []string `json:"is,omitempty"`
	Op   *wireOp  `json:"op,omitempty"`
}

type wireOp struct {
	Top   bool           `json:"top,omitempty"`
	Op    string         `json:"op"`
	Phase *migrate.Phase `json:"phase,omitempty"`
	Side  migrate.Side   `json:"side,omitempty"`
	Owner *migrate.Owner `json:"owner,omitempty"`
	Fix   string         `json:"fix,omitempty"`
	Cause *wireError     `json:"cause,omitempty"`
}

// encodeError gives nil for what is too deep.
func encodeError(err error, depth int) *wireError {
	if err == nil || depth == maxErrorDepth {
		return nil
	}
	if oe, ok := err.(*migrate.OpError); ok { // the error itself, not one that it wraps
		op := encodeOp(oe, depth)
		op.Top = true
		return &wireError{Op: op}
	}
	w := &wireError{Text: clip(err.Error())}
	for _, s := range sentinels() {
		if errors.Is(err, s.err) {
			w.Is = append(w.Is, s.name)
		}
	}
	var oe *migrate.OpError
	if errors.As(err, &oe) {
		w.Op = encodeOp(oe, depth)
	}
	return w
}

func encodeOp(oe *migrate.OpError, depth int) *wireOp {
	op := &wireOp{Op: clip(oe.Op), Side: migrate.Side(clip(string(oe.Side))), Fix: clip(oe.Fix), Cause: encodeError(oe.Err, depth+1)}
	if oe.Phase != 0 {
		op.Phase = &oe.Phase
	}
	if oe.Owner != 0 {
		op.Owner = &oe.Owner
	}
	return op
}

func clip(s string) string {
	if len(s) > maxErrorText {
		s = s[:maxErrorText]
	}
	return strings.ToValidUTF8(s, "?")
}

// decode gives an error that errors.Is and errors.As see as they saw the one that was encoded.
func (w *wireError) decode() error {
	if w == nil {
		return nil
	}
	if w.Op != nil && w.Op.Top {
		return w.Op.decode()
	}
	e := &remoteError{text: w.Text}
	for _, name := range w.Is {
		for _, s := range sentinels() {
			if s.name == name {
				e.wraps = append(e.wraps, s.err)
			}
		}
	}
	if w.Op != nil {
		e.wraps = append(e.wraps, w.Op.decode())
	}
	return e
}

func (o *wireOp) decode() error {
	oe := &migrate.OpError{Op: o.Op, Side: o.Side, Fix: o.Fix, Err: o.Cause.decode()}
	if o.Phase != nil {
		oe.Phase = *o.Phase
	}
	if o.Owner != nil {
		oe.Owner = *o.Owner
	}
	return oe
}

// remoteError is an error that happened at the other end.
type remoteError struct {
	text  string
	wraps []error
}

func (e *remoteError) Error() string { return e.text }

func (e *remoteError) Unwrap() []error { return e.wraps }

// trailerOf is the trailer that carries err; nil if it cannot be written, and then the text has to do.
func trailerOf(err error) metadata.MD {
	b, jerr := json.Marshal(encodeError(err, 0))
	if jerr != nil {
		return nil
	}
	return metadata.Pairs(errorKey, string(b))
}

// errorOf reads a trailer; nil if there is none or it makes no sense.
func errorOf(md metadata.MD) error {
	v := md.Get(errorKey)
	if len(v) != 1 || len(v[0]) > maxJSON {
		return nil
	}
	var w wireError
	if strict([]byte(v[0]), &w) != nil {
		return nil
	}
	return w.decode()
}
