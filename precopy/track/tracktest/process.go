//go:build linux

package tracktest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/precopy/track"
)

// Memory is a kind of memory that the child can have.
type Memory string

// The kinds. Tmpfs is a file in /dev/shm, Transparent is Anonymous in huge pages that the kernel makes, as far as it has
// any, Huge is on hugetlbfs, and HugeUnknown, too, but the tracker is not told of its file.
const (
	Memfd       Memory = "memfd"
	Tmpfs       Memory = "tmpfs"
	Anonymous   Memory = "anon"
	Transparent Memory = "thp"
	Huge        Memory = "huge"
	HugeUnknown Memory = "huge-unknown"
)

// Memories lists them all.
func Memories() []Memory { return []Memory{Memfd, Tmpfs, Anonymous, Transparent, Huge, HugeUnknown} }

// Process is a child with memory.
type Process struct {
	PID    int
	Region track.Region
	file   *os.File // what is behind the memory
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
}

// Start runs a child with so many pages of memory. It ends with the test.
func Start(t testing.TB, m Memory, pages int64) *Process {
	t.Helper()
	pageSize, known := int64(os.Getpagesize()), m != HugeUnknown
	if !known {
		m = Huge
	}
	if m == Huge {
		pageSize = 2 << 20
		needHugePages(t, int(pages))
	}
	if os.Getenv(childEnv) != "" { // else this process starts itself without end
		t.Fatal("the child runs tests: TestMain of this package does not call tracktest.Child")
	}
	p := &Process{cmd: exec.Command("/proc/self/exe")}
	// With the race detector in it a program waits for a second when it ends; a suite starts hundreds.
	p.cmd.Env = append(os.Environ(), childEnv+"=1", "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	p.cmd.Stderr = os.Stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.PID = p.cmd.Process.Pid
	t.Cleanup(p.end)
	kind := string(m)
	if m == Tmpfs {
		kind = "/dev/shm"
	}
	var fd int
	if _, err := fmt.Sscanf(p.Do(t, "map", kind, pages*pageSize), "0x%x %d %d", &p.Region.Addr, &fd, new(int)); err != nil {
		t.Fatal(err)
	}
	p.Region.Block = ram.Block{Name: "tracktest", Size: pages * pageSize, PageSize: pageSize}
	if fd >= 0 {
		f, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", p.PID, fd), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() }) // nothing was buffered
		if p.file = f; known {
			p.Region.File = f
		}
	}
	return p
}

func (p *Process) end() {
	_ = p.in.Close() // it ends by that, if it still runs
	_ = p.cmd.Wait() // its status is no news
}

// Kill ends the child at once and waits for it.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it was killed
}

// Do has the child do something, and gives its answer.
func (p *Process) Do(t testing.TB, command string, args ...any) string {
	t.Helper()
	p.Send(t, command, args...)
	return p.Reply(t)
}

// Send gives a command without waiting for the answer.
func (p *Process) Send(t testing.TB, command string, args ...any) {
	t.Helper()
	if _, err := io.WriteString(p.in, command+" "+fmt.Sprintln(args...)); err != nil {
		t.Fatal(err)
	}
}

// Reply waits for the answer to Send.
func (p *Process) Reply(t testing.TB) string {
	t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		t.Fatalf("the child does not answer: %v", err)
	}
	answer, ok := strings.CutPrefix(strings.TrimSpace(line), "ok")
	if !ok {
		t.Fatalf("the child: %s", line)
	}
	return strings.TrimSpace(answer)
}

// Contents reads the memory as the child sees it.
func (p *Process) Contents(t testing.TB) []byte {
	t.Helper()
	b := make([]byte, p.Region.Block.Size)
	p.read(t, b, 0)
	return b
}

// read goes through the file where there is one: through the process it would fill holes of hugetlbfs.
func (p *Process) read(t testing.TB, b []byte, off int64) {
	t.Helper()
	if p.file != nil {
		if _, err := p.file.ReadAt(b, off); err != nil {
			t.Fatal(err)
		}
		return
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", p.PID))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // read only
	if _, err := f.ReadAt(b, int64(p.Region.Addr)+off); err != nil {
		t.Fatal(err)
	}
}

const hugePool = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"

// needHugePages adds 2 MiB pages to the machine's pool until the test ends.
func needHugePages(t testing.TB, n int) {
	t.Helper()
	if err := growHugePages(n); err != nil {
		t.Skipf("needs %d huge pages of 2 MiB: %v; remedy: run the tests as root, on a machine with that much free memory", n, err)
	}
	t.Cleanup(func() {
		if err := growHugePages(-n); err != nil {
			t.Errorf("give huge pages back: %v", err)
		}
	})
}

func growHugePages(n int) error {
	before, err := hugePages()
	if err != nil {
		return err
	}
	if err := os.WriteFile(hugePool, []byte(strconv.Itoa(max(0, before+n))), 0); err != nil {
		return err
	}
	after, err := hugePages()
	if err == nil && after < before+n {
		err = errors.Join(fmt.Errorf("there are only %d", after-before), os.WriteFile(hugePool, []byte(strconv.Itoa(before)), 0))
	}
	return err
}

func hugePages() (int, error) {
	b, err := os.ReadFile(hugePool)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}
