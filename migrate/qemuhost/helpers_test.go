package qemuhost

import (
	"errors"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// wantMentions fails unless err is there, names what it should and offers a fix.
func wantMentions(t *testing.T, err error, what ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, w := range what {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not mention %q", err, w)
		}
	}
	if migrate.FixOf(err) == "" {
		t.Errorf("%q has no fix", err)
	}
}

// wantMentionsOnly is wantMentions for an error that nobody has a fix for.
func wantMentionsOnly(t *testing.T, err error, what string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), what) {
		t.Errorf("%v does not mention %q", err, what)
	}
}

// wantIs fails unless err wraps want.
func wantIs(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%v does not wrap %q", err, want)
	}
}
