package bench

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/testenv"
)

// machine says where the benchmark runs. What cannot be found out is left empty.
func machine(ctx context.Context, program string) Machine {
	m := Machine{Arch: runtime.GOARCH, CPUs: runtime.NumCPU()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	m.QEMU, _, _ = strings.Cut(strings.TrimPrefix(firstLine(ctx, "qemu-system-x86_64", "--version"), "QEMU emulator version "), " (")
	m.Program, _, _ = strings.Cut(firstLine(ctx, program, "version"), " (go")
	return m
}

func firstLine(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

// How the round trip is measured.
const (
	echoes       = 200
	echoPatience = 2 * time.Second
)

// roundTrip is how long a small datagram takes from one host to another and back, in
// microseconds: the median of many.
func roundTrip(ctx context.Context, from, to *testenv.Host) (float64, error) {
	far, err := to.ListenPacket(ctx, "udp", net.JoinHostPort(to.Address().String(), "0"))
	if err != nil {
		return 0, err
	}
	var echo sync.WaitGroup
	defer echo.Wait()
	defer far.Close()
	echo.Go(func() {
		b := make([]byte, 64)
		for {
			n, addr, err := far.ReadFrom(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = far.WriteTo(b[:n], addr) // a lost answer is asked for again
			}
		}
	})
	near, err := from.Dial(ctx, "udp", far.LocalAddr().String())
	if err != nil {
		return 0, err
	}
	defer near.Close()
	return medianEcho(ctx, near)
}

func medianEcho(ctx context.Context, c net.Conn) (float64, error) {
	var times []float64
	var lastErr error
	for range echoes {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		begin := time.Now()
		if err := c.SetDeadline(begin.Add(echoPatience)); err != nil {
			return 0, err
		}
		_, err := c.Write([]byte("echo"))
		if err == nil {
			_, err = c.Read(make([]byte, 64))
		}
		if err != nil { // a link may lose datagrams
			lastErr = err
			continue
		}
		times = append(times, float64(time.Since(begin))/float64(time.Microsecond))
	}
	if len(times) == 0 {
		return 0, lastErr
	}
	return spread(times).Median, nil
}
