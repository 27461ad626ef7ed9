package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/agent/agenttest"
)

// testVersion is the version of all programs of these tests.
const testVersion = "v1.2.3-test"

// TestMain makes the test binary an agent if it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		os.Exit(beAgent())
	}
	goleak.VerifyTestMain(m)
}

// about is what the agent of these tests tells of itself, as its certificate.
type about struct {
	Exe, Net, Cwd string
	Session, PPID int
	Args          []string
}

// stayEnv names a FIFO: the agent then stays until it gets a byte there. versionEnv is another version for an agent.
const (
	stayEnv    = "TEST_AGENT_STAY"
	versionEnv = "TEST_AGENT_VERSION"
)

// beAgent is an agent with a Fake in it, on standard input and output.
func beAgent() int {
	pipes := make(chan os.Signal, 1)
	signal.Notify(pipes, syscall.SIGPIPE)
	var me about
	me.Args = os.Args
	me.Exe, _ = os.Executable()
	me.Net, _ = os.Readlink("/proc/self/ns/net")
	me.PPID = os.Getppid()
	me.Session, _, _ = sessionOf(os.Getpid())
	if slices.Contains(os.Args, agent.RemoveFlag) {
		if err := agent.RemoveExecutable(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	conn, err := agent.Stdio()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("this must not get into the connection")
	fmt.Fprintln(os.Stderr, "a word to the log")
	host, _ := os.Hostname()
	text, _ := json.Marshal(me)
	version := testVersion
	if v := os.Getenv(versionEnv); v != "" {
		version = v
	}
	f := &agenttest.Fake{Identity: agent.Identity{Version: version, Protocol: agent.Protocol, Host: host, PID: os.Getpid(), Certificate: text}}
	if fifo := os.Getenv(stayEnv); fifo != "" {
		leave := f.Stay()
		r, err := os.OpenFile(fifo, os.O_RDWR, 0) // for writing too: so opening does not wait
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		go func() {
			_, _ = r.Read(make([]byte, 1))
			close(leave)
		}()
	}
	if err := agent.ServeConn(context.Background(), conn, f, agent.Options{Version: version}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func sessionOf(pid int) (session int, stat string, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, "", err
	}
	var skip int
	var name, state string
	_, err = fmt.Sscanf(string(b), "%d %s %s %d %d %d", &skip, &name, &state, &skip, &skip, &session)
	return session, string(b), err
}
