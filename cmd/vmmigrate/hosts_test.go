package main

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// TestAskedEngine: auto is left open, native is there, nbd as far as this version has it, and nothing else is an engine.
func TestAskedEngine(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, ok := range map[string]bool{"auto": true, "native": true, "nbd": nbdEngine(log) != nil, "": false, "qemu": false} {
		n, err := askedEngine(name, log)
		if (err == nil) != ok {
			t.Errorf("%q: %q, %v", name, n, err)
		}
		var usage usageError
		if err != nil && !errors.As(err, &usage) {
			t.Errorf("%q: %v is no usage error", name, err)
		}
	}
	if e, err := pickEngine(migrate.EngineNative, log); err != nil || e.Name() != migrate.EngineNative {
		t.Errorf("native: %v", err)
	}
	if _, err := pickEngine(migrate.EngineAuto, log); err == nil {
		t.Error("auto is no engine")
	}
}
