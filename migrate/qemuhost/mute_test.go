package qemuhost

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// A QEMU that lives and does not answer is told from one that is gone.
func TestT3DialTellsMuteFromGone(t *testing.T) {
	q := startQEMU(t, guestImage(t, 0))
	ctx := limit(t, time.Minute)
	if err := q.dial(ctx).Close(); err != nil {
		t.Fatal(err)
	}
	q.freeze()
	short, stop := context.WithTimeout(ctx, 200*time.Millisecond)
	defer stop()
	if _, err := Dial(short, q.uri, Options{}); !errors.Is(err, migrate.ErrMute) || errors.Is(err, migrate.ErrNoDomain) {
		t.Errorf("a QEMU that stands still: %v", err)
	}
	q.kill()
	if _, err := Dial(ctx, q.uri, Options{}); errors.Is(err, migrate.ErrMute) || !errors.Is(err, migrate.ErrNoDomain) {
		t.Errorf("a QEMU that is gone: %v", err)
	}
}
