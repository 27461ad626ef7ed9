package libvirthost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/testenv"
	"github.com/vmmigrate/vmmigrate/testenv/bareguest"
)

// sharedLab is the one lab of this package's tests, brought up by the first that needs it.
type sharedLab struct {
	once sync.Once
	lab  *testenv.Lab
	dir  string
	err  error
}

var theLab sharedLab

func (s *sharedLab) up(t *testing.T) *testenv.Lab {
	t.Helper()
	need.Libvirt(t)
	need.Netns(t)
	s.once.Do(func() {
		if s.dir, s.err = os.MkdirTemp("/tmp", "lvh"); s.err != nil {
			return
		}
		s.lab, s.err = testenv.Up(context.Background(), testenv.Config{Name: "lvh", Dir: s.dir, Bound: true})
	})
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.lab
}

func (s *sharedLab) down() {
	if s.lab != nil {
		if err := s.lab.Down(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	if s.dir != "" {
		os.RemoveAll(s.dir)
	}
}

// pair is two real hosts and a guest that runs on the first. Each test has its own connections.
type pair struct {
	t          *testing.T
	lab        *testenv.Lab
	a, b       *Host
	hostA      *testenv.Host
	hostB      *testenv.Host
	name, uuid string
}

// images is where a host of the lab has its images, as the host itself sees it.
const images = "/var/lib/libvirt/images"

// guestConfig is what a test wants of its guest.
type guestConfig struct {
	rate uint32 // pages a second that the guest writes; 0 is 2000
	disk string // file of a disk, in images; empty is none
	// define makes it persistent.
	define bool
	// shared puts its RAM into shared files.
	shared bool
}

func newPair(ctx context.Context, t *testing.T, g guestConfig) *pair {
	t.Helper()
	lab := theLab.up(t)
	p := &pair{t: t, lab: lab, name: "guest", uuid: "7f000000-0000-4000-8000-000000000001"}
	p.hostA, p.hostB = mustHost(t, lab, "a"), mustHost(t, lab, "b")
	p.a, p.b = p.dial(ctx, p.hostA), p.dial(ctx, p.hostB)
	if g.rate == 0 {
		g.rate = 2000
	}
	for _, h := range []*testenv.Host{p.hostA, p.hostB} {
		if err := bareguest.Write(filepath.Join(h.ImagesDir(), "bare.rom"), bareguest.Config{Start: 1 << 20, End: 33 << 20, Rate: g.rate}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(p.clear)
	p.start(ctx, g)
	return p
}

func mustHost(t *testing.T, lab *testenv.Lab, name string) *testenv.Host {
	t.Helper()
	h, err := lab.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// dial opens a connection that the test closes at its end.
func (p *pair) dial(ctx context.Context, h *testenv.Host) *Host {
	p.t.Helper()
	c, err := Open(ctx, h.URI(), Options{})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	return c
}

func (p *pair) xml(g guestConfig) string {
	disk := ""
	if g.disk != "" {
		disk = fmt.Sprintf(`<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%s/%s'/><target dev='vda' bus='virtio'/></disk>`, images, g.disk)
	}
	backing := ""
	if g.shared {
		backing = "<memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>"
	}
	return fmt.Sprintf(`<domain type='qemu'><name>%s</name><uuid>%s</uuid><memory unit='MiB'>40</memory><vcpu>1</vcpu>%s
<os><type arch='x86_64' machine='q35'>hvm</type><loader readonly='yes' type='rom'>%s/bare.rom</loader></os>
<cpu mode='custom' match='exact' check='none'><model>qemu64</model></cpu>
<devices><controller type='usb' model='none'/><memballoon model='none'/>%s</devices></domain>`, p.name, p.uuid, backing, images, disk)
}

func (p *pair) start(ctx context.Context, g guestConfig) {
	p.t.Helper()
	_, err := do(ctx, p.a.c, func(l *libvirt.Libvirt) (libvirt.Domain, error) {
		if !g.define {
			return l.DomainCreateXML(p.xml(g), 0)
		}
		d, err := l.DomainDefineXML(p.xml(g))
		if err != nil {
			return d, err
		}
		return d, l.DomainCreate(d)
	})
	if err != nil {
		p.t.Fatal("start the guest: ", err)
	}
}

// clear removes the guest from both hosts, over connections of its own.
func (p *pair) clear() {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for _, h := range []*testenv.Host{p.hostA, p.hostB} {
		c, err := Open(ctx, h.URI(), Options{})
		if err != nil {
			p.t.Error(err)
			continue
		}
		if d, err := c.lookup(ctx, p.name); err == nil {
			if err := c.destroy(ctx, d); err != nil && code(err) != libvirt.ErrOperationInvalid {
				p.t.Error(err)
			}
			_ = c.undefine(ctx, d)
		}
		c.Close()
	}
}

// side gives the connection of one side.
func (p *pair) side(s migrate.Side) *Host {
	if s == migrate.SideSource {
		return p.a
	}
	return p.b
}

// suspend and resume act as the guest's owner.
func (p *pair) suspend(ctx context.Context, h *Host) error {
	return h.act(ctx, p.name, (*libvirt.Libvirt).DomainSuspend)
}

func (p *pair) resume(ctx context.Context, h *Host) error {
	return h.act(ctx, p.name, (*libvirt.Libvirt).DomainResume)
}

// verify stops the guest if it runs, holds its memory to the rule, and lets it go on.
func (p *pair) verify(ctx context.Context, side migrate.Side) (err error) {
	h, host := p.side(side), p.hostA
	if side == migrate.SideDestination {
		host = p.hostB
	}
	s, err := h.State(ctx, p.name)
	if err != nil {
		return err
	}
	if s.Run == migrate.RunRunning {
		if err := p.suspend(ctx, h); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.resume(ctx, h)) }()
	}
	cmd := fmt.Sprintf(`{"execute":"pmemsave","arguments":{"val":0,"size":%d,"filename":"%s/ram"}}`, 40<<20, images)
	err = h.act(ctx, p.name, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		answer, err := l.QEMUDomainMonitorCommand(d, cmd, 0)
		if err == nil && strings.Contains(answer, `"error"`) {
			err = errors.New(answer)
		}
		return err
	})
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(host.ImagesDir(), "ram"))
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = bareguest.CheckRAM(f)
	return err
}

// killQEMU ends the guest's process on a host as a crash would.
func (p *pair) killQEMU(host *testenv.Host) {
	p.t.Helper()
	cmd := "kill -9 $(cat /run/libvirt/qemu/" + p.name + ".pid)"
	if _, err := host.Output(context.Background(), "sh", "-c", cmd); err != nil {
		p.t.Error(err)
	}
}
