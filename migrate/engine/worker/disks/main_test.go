package disks

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if as := os.Getenv(agentEnv); as != "" {
		beAgent(as)
		return
	}
	goleak.VerifyTestMain(m)
}
