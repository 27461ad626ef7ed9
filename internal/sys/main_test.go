package sys

import (
	"os"
	"testing"
)

// kidEnv makes the test binary a kid: a process that does with its memory what the test tells it.
const kidEnv = "SYS_TEST_KID"

func TestMain(m *testing.M) {
	if os.Getenv(kidEnv) != "" {
		runKid(os.Stdin, os.Stdout)
		return
	}
	os.Exit(m.Run())
}
