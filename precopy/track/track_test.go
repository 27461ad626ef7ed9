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
	goleak.VerifyTestMain(m)
}

func TestT1Userfault(t *testing.T) {
	need.UFFD(t)
	tracktest.Suite{Kind: track.KindUserfault, Memories: tracktest.Memories(), Exact: true}.Run(t)
}

func TestT1Hash(t *testing.T) {
	tracktest.Suite{Kind: track.KindHash, Memories: tracktest.Memories(), Exact: true}.Run(t)
}
