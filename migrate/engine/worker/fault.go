package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// FaultEnv is the variable that FaultFrom is usually read from.
const FaultEnv = "VMMIGRATE_AGENT_FAULT"

// Points are the names that an agent passes, in the order of a migration: as the source's "open-source", "harvest", "stream",
// "keep" and "close-source"; as the destination's "open-dest", "fetch", "piece", "sums", "pass", "switch", "switched", "release",
// "released", "relayed" (QEMU's whole stream was written to its socket), "page", "prepage" and "close-dest". "keep", "piece", "sums"
// and "prepage" are passed many times.
func Points() []string {
	return []string{"open-dest", "open-source", "harvest", "fetch", "piece", "sums", "stream", "pass", "switch", "switched", "release", "released",
		"relayed", "page", "prepage", "close-dest", "keep", "close-source"}
}

// DiskPoints are those of the ends for disks: at the source "disk-freeze"; at the destination "disk-thaw", "disk-read" (one of
// the guest that needs the source), "disk-piece" and, with a piece in the cache that is not marked yet, "disk-mark", all but the
// first many times; and on both sides "disk-close". Of disks that are mirrored, all at the destination: "disk-open", "disk-fetch",
// "disk-sums", "disk-piece" and "disk-mirror" (a request of the source's QEMU) many times, "disk-settle" and "disk-settled".
func DiskPoints() []string {
	return []string{"disk-freeze", "disk-thaw", "disk-read", "disk-piece", "disk-mark", "disk-close",
		"disk-open", "disk-fetch", "disk-sums", "disk-mirror", "disk-settle", "disk-settled"}
}

// ErrFault is what a point fails with that was made to.
var ErrFault = errors.New("a fault that was asked for")

// FaultFrom reads POINT[:N]=ACTION@/absolute/marker/file and gives an Options.Spoil: when the process comes to the point for
// the Nth time (the first, if it is not said) it creates the marker and does what ACTION says:
//
//	error  the point fails, with ErrFault
//	hang   it hangs until its context ends
//	stop   the whole process stands still, as by SIGSTOP
//	kill   the process is gone, as by SIGKILL
//
// It is done once: not while the marker exists, so that agents which take over do not fall over the same stone. Empty is no
// fault and nil; anything else is an error.
//
// Production cannot trip on it: it is read only by a caller who asks for it, wants a marker's path, and logs a warning.
func FaultFrom(s string, log *slog.Logger) (func(ctx context.Context, point string) error, error) {
	if s == "" {
		return nil, nil
	}
	bad := func(why string) error {
		return fmt.Errorf("%s=%q: %s; want POINT[:N]=ACTION@/absolute/marker/file", FaultEnv, s, why)
	}
	rest, marker, ok := strings.Cut(s, "@")
	where, action, ok2 := strings.Cut(rest, "=")
	if !ok || !ok2 || !filepath.IsAbs(marker) {
		return nil, bad("no such form")
	}
	f := &armed{n: 1, action: action, marker: marker, log: log}
	var nth string
	var counted bool
	if f.point, nth, counted = strings.Cut(where, ":"); counted {
		var err error
		if f.n, err = strconv.ParseInt(nth, 10, 64); err != nil || f.n < 1 {
			return nil, bad("no such count")
		}
	}
	if !slices.Contains(append(Points(), DiskPoints()...), f.point) {
		return nil, bad("no such point")
	}
	if !slices.Contains([]string{"error", "hang", "stop", "kill"}, action) {
		return nil, bad("no such action")
	}
	return f.at, nil
}

// armed is a fault that waits for its point.
type armed struct {
	point, action, marker string
	n                     int64
	seen                  atomic.Int64
	log                   *slog.Logger
}

func (f *armed) at(ctx context.Context, point string) error {
	if point != f.point || f.seen.Add(1) != f.n {
		return nil
	}
	m, err := os.OpenFile(f.marker, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil // it has happened
	case err != nil:
		return fmt.Errorf("mark a fault: %w", err)
	}
	if err := m.Close(); err != nil {
		return err
	}
	f.log.Warn("fault", "point", point, "action", f.action)
	switch f.action {
	case "hang":
		<-ctx.Done()
		return fmt.Errorf("%w: %w", ErrFault, ctx.Err())
	case "stop":
		return syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	case "kill":
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			return err
		}
		select {} // it is on its way
	}
	return migrate.Fail("pass the point "+point, "", ErrFault, "")
}
