//go:build linux

package track_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/precopy/track"
	"github.com/vmmigrate/vmmigrate/precopy/track/tracktest"
)

func TestMain(m *testing.M) {
	if tracktest.Child() {
		os.Exit(0)
	}
	if os.Getpid() == 1 {
		off := asInit()
		off(m.Run())
	}
	goleak.VerifyTestMain(m)
}

func TestT1Userfault(t *testing.T) {
	need.UFFD(t)
	tracktest.Suite{Kind: track.KindUserfault, Memories: tracktest.Memories(), Exact: true}.Run(t)
}

func TestT1Hash(t *testing.T) {
	tracktest.Suite{Kind: track.KindHash, Memories: []tracktest.Memory{tracktest.Memfd, tracktest.Anonymous, tracktest.Huge}, Exact: true}.Run(t)
}

func TestT1SoftDirty(t *testing.T) {
	if p := track.Probe(track.KindSoftDirty); p.Presence == sys.Absent {
		t.Skipf("needs soft-dirty: %s; remedy: %s", p.Reason, p.Remedy)
	}
	tracktest.Suite{Kind: track.KindSoftDirty, Memories: []tracktest.Memory{tracktest.Memfd, tracktest.Tmpfs, tracktest.Anonymous, tracktest.Transparent}}.Run(t)
}
