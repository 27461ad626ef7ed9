package agenttest

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWithoutAWay(t *testing.T) {
	Conformance(t, func(_ *testing.T, a agent.Agent) agent.Agent { return a })
}
