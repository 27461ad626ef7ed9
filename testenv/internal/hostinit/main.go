package hostinit

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ControlFD is the descriptor on which a host is told what to do.
const ControlFD = 3

// host is the state of the first process of a host. Only Main's goroutine uses it,
// except for children, which is safe.
type host struct {
	in       *json.Decoder
	out      *json.Encoder
	children *children
	requests chan Request

	pid   int           // of libvirtd, 0 if it does not run
	ended <-chan string // receives how that libvirtd ended
}

// Main is the program of a host's first process. It returns the exit code when the
// lab daemon is gone or closes the connection.
func Main() int {
	file := os.NewFile(ControlFD, "control")
	conn, err := net.FileConn(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab host: no control connection:", err)
		return 1
	}
	file.Close()
	defer conn.Close()
	h := &host{
		in: json.NewDecoder(conn), out: json.NewEncoder(conn),
		children: &children{waiting: map[int]chan<- string{}},
		requests: make(chan Request),
	}
	go h.read() // ends with the process
	h.serve()
	return 0
}

// read passes the daemon's requests on and closes the channel when it is gone.
func (h *host) read() {
	defer close(h.requests)
	for {
		var r Request
		if h.in.Decode(&r) != nil {
			return
		}
		h.requests <- r
	}
}

// serve does one thing at a time: requests, and the ends of processes.
func (h *host) serve() {
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	defer signal.Stop(died)
	for {
		select {
		case r, ok := <-h.requests:
			if !ok {
				return
			}
			h.report(h.do(r))
		case <-died:
			h.children.reap()
		case how := <-h.ended:
			h.pid, h.ended = 0, nil
			h.report(Event{Kind: EventExited, Text: how})
		}
	}
}

// report sends an event. A daemon that does not read is a daemon that is gone,
// which the reader notices.
func (h *host) report(e Event) { _ = h.out.Encode(e) }

func (h *host) do(r Request) Event {
	e, err := h.dispatch(r)
	if err != nil {
		return Event{Kind: EventFailed, Text: err.Error()}
	}
	return e
}

func (h *host) dispatch(r Request) (Event, error) {
	switch r.Op {
	case OpSetup:
		return h.setup(r)
	case OpLaunch:
		if err := h.stop(); err != nil {
			return Event{}, err
		}
		return Event{Kind: EventLaunched}, h.launch()
	case OpStop:
		return Event{Kind: EventStopped}, h.stop()
	default:
		return Event{}, fmt.Errorf("unknown request %q", r.Op)
	}
}

func (h *host) setup(r Request) (Event, error) {
	if r.Plan == nil {
		return Event{}, errors.New("setup without a plan")
	}
	plan, err := r.Plan.Host(r.Host)
	if err != nil {
		return Event{}, err
	}
	// The machine's /proc is still mounted: there "self" is what the machine
	// calls this process.
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return Event{}, fmt.Errorf("find own process number: %w", err)
	}
	pid, err := strconv.Atoi(self)
	if err != nil {
		return Event{}, fmt.Errorf("own process number: %w", err)
	}
	return Event{Kind: EventBorn, PID: pid}, setup(*r.Plan, plan)
}

// launch starts libvirtd in the foreground, with an environment of its own.
func (h *host) launch() error {
	path, err := exec.LookPath("libvirtd")
	if err != nil {
		return fmt.Errorf("%w (apt-get install libvirt-daemon-system)", err)
	}
	log, err := os.OpenFile("/var/log/libvirt/libvirtd.stderr", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root"}
	h.pid, h.ended, err = h.children.start(path, []string{"libvirtd", "--listen", "--timeout", "0"}, env, log)
	return err
}

// stopGrace is how long libvirtd may take to end when asked to.
const stopGrace = 10 * time.Second

// stop ends libvirtd, by force if it does not listen, and waits for it. Its guests
// are processes of their own and go on.
func (h *host) stop() error {
	if h.pid == 0 {
		return nil
	}
	if err := unix.Kill(h.pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stop libvirtd: %w", err)
	}
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	defer signal.Stop(died)
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	for {
		h.children.reap()
		select {
		case <-h.ended:
			h.pid, h.ended = 0, nil
			return nil
		case <-died:
		case <-grace.C:
			_ = unix.Kill(h.pid, unix.SIGKILL) // it is our child and not yet collected: the number is its own
		}
	}
}
