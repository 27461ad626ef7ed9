package testenv

import (
	"os"

	"github.com/vmmigrate/vmmigrate/testenv/internal/daemon"
	"github.com/vmmigrate/vmmigrate/testenv/internal/hostinit"
)

// Init turns this process into one of a lab's helpers, if it was started as one,
// and does not return then. Otherwise it returns at once. A program that calls Up
// calls Init before anything else.
func Init() {
	switch os.Getenv(daemon.RoleEnv) {
	case daemon.RoleDaemon:
		os.Exit(daemon.Main())
	case daemon.RoleHost:
		os.Exit(hostinit.Main())
	}
}
