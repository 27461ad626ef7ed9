package track_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/precopy/track"
	"github.com/vmmigrate/vmmigrate/precopy/track/tracktest"
)

func TestMain(m *testing.M) {
	if tracktest.Child() {
		os.Exit(0)
	}
	// A tracer that begins on the first thread of the process keeps a goroutine waiting there.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/vmmigrate/vmmigrate/internal/sys.onTracer.func1"))
}

func TestT1Userfault(t *testing.T) {
	need.UFFD(t)
	tracktest.Suite{Kind: track.KindUserfault, Memories: tracktest.Memories(), Exact: true}.Run(t)
}

func TestT1Hash(t *testing.T) {
	tracktest.Suite{Kind: track.KindHash, Memories: tracktest.Memories(), Exact: true}.Run(t)
}
