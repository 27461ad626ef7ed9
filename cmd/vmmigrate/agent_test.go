package main

import (
	"context"
	"os/exec"
	"regexp"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

// A build that is no release knows itself from another build.
func TestAgentVersion(t *testing.T) {
	if !regexp.MustCompile(`\+[0-9a-f]{32}$`).MatchString(agentVersion()) {
		t.Errorf("this build, which is no release, is %q", agentVersion())
	}
	if id := buildID("/proc/self/status"); id != "unknown" {
		t.Errorf("a file that is no program has the identity %s", id)
	}
}

// The command, started as a coordinator starts it, is an agent of our version that ends with its connection.
func TestT2AgentCommand(t *testing.T) {
	need.Netns(t)
	exe, err := exec.LookPath("vmmigrate")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a, err := agent.Connector{Version: agentVersion(), Executable: exe}.Connect(ctx, migrate.Place{Local: true})
	if err != nil {
		t.Fatal(err)
	}
	id, err := a.Hello(ctx)
	if err != nil || id.Version != agentVersion() || len(id.Certificate) == 0 {
		t.Errorf("%+v, %v", id, err)
	}
	if _, err := a.OpenSource(ctx, agent.SourceSpec{}); err == nil {
		t.Error("the source's end of no guest is open")
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}
