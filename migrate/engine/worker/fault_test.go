package worker

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

func TestFaultFrom(t *testing.T) {
	for in, ok := range map[string]bool{"": true, "harvest=error@/tmp/x": true, "piece:7=kill@/x": true, "page=stop@/x": true,
		"harvest=error": false, "harvest=error@x": false, "harvset=error@/x": false, "harvest=eror@/x": false, "piece:0=kill@/x": false,
		"piece:=kill@/x": false, "harvest@/x": false, "@/x": false} {
		if _, err := FaultFrom(in, slog.New(slog.DiscardHandler)); (err == nil) != ok {
			t.Errorf("%q: %v", in, err)
		}
	}
}

// A fault happens at its point, when that is passed the nth time, and once for all that share its marker.
func TestFaultHappensOnce(t *testing.T) {
	marker := filepath.Join(t.TempDir(), "marker")
	open := func() func(context.Context, string) error {
		f, err := FaultFrom("fetch:2=error@"+marker, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first, second := open(), open()
	for i, point := range []string{"harvest", "fetch", "harvest", "fetch", "fetch"} {
		if err := first(t.Context(), point); errors.Is(err, ErrFault) != (i == 3) {
			t.Errorf("%d, %s: %v", i, point, err)
		}
	}
	if _, err := os.Stat(marker); err != nil {
		t.Error(err)
	}
	for range 3 {
		if err := second(t.Context(), "fetch"); err != nil {
			t.Errorf("it happened again: %v", err)
		}
	}
}

// A fault that hangs ends with its context.
func TestFaultHangs(t *testing.T) {
	f, err := FaultFrom("fetch=hang@"+filepath.Join(t.TempDir(), "marker"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := f(ctx, "fetch"); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrFault) {
		t.Error(err)
	}
}
