package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/testenv"
	"github.com/vmmigrate/vmmigrate/testenv/oracle"
)

// bootPatience bounds how long a guest may take to boot, verifyPatience how long to
// check itself.
const (
	bootPatience   = 3 * time.Minute
	verifyPatience = 2 * time.Minute
)

// venue is a guest and the two hosts that it moves between.
type venue interface {
	// start boots the guest at the first host; one that is there is ended first. It
	// says what runs it.
	start(ctx context.Context) (accel string, err error)
	// aim says where the guest is and makes the other host ready for it.
	aim(ctx context.Context) (aim, error)
	// again is aim, but leaves the images that the guest had there.
	again(ctx context.Context) (aim, error)
	// address is where the guest's oracle answers, oracle a connection to it.
	address() string
	oracle(ctx context.Context) (*oracle.Client, error)
	// verify is nil if the guest is whole and exactly one host runs it.
	verify(ctx context.Context) error
}

// newVenue is the venue for that kind of hosts.
func newVenue(lab *testenv.Lab, hosts string, c testenv.GuestConfig) (venue, error) {
	switch hosts {
	case Libvirt:
		return &labVenue{lab: lab, config: c, way: libvirtWay}, nil
	case Bare:
		return &labVenue{lab: lab, config: c, way: bareWay}, nil
	default:
		return nil, fmt.Errorf("hosts %q: not known", hosts)
	}
}

// labVenue moves a guest between two hosts of a lab.
type labVenue struct {
	lab    *testenv.Lab
	config testenv.GuestConfig
	guest  *testenv.Guest
	// way makes the other host ready and says how the program is told of both.
	way func(ctx context.Context, g *testenv.Guest, from, to *testenv.Host) ([]string, error)
}

// libvirtWay is from one libvirtd to the other, which starts QEMU by itself.
func libvirtWay(_ context.Context, g *testenv.Guest, from, to *testenv.Host) ([]string, error) {
	return []string{"-c", g.URI(from), "migrate", g.Name(), g.URI(to), "--persistent", "--undefinesource"}, nil
}

// bareWay is from one QEMU to another that waits for it. Both listen in networks of
// their own, so the program is told where.
func bareWay(ctx context.Context, g *testenv.Guest, from, to *testenv.Host) ([]string, error) {
	if err := g.Await(ctx, to); err != nil {
		return nil, err
	}
	return []string{"-c", g.URI(from), "migrate", g.Name(), g.URI(to), "--migrateuri", "tcp://" + to.Address().String()}, nil
}

func (v *labVenue) start(ctx context.Context) (string, error) {
	ctx, stop := context.WithTimeout(ctx, bootPatience)
	defer stop()
	if v.guest != nil {
		if err := v.guest.Remove(ctx); err != nil {
			return "", err
		}
	}
	var err error
	if v.guest, err = v.lab.StartGuest(ctx, v.config); err != nil {
		return "", err
	}
	return v.guest.Accel(ctx)
}

func (v *labVenue) aim(ctx context.Context) (aim, error) {
	from, err := v.guest.Host(ctx)
	if err != nil {
		return aim{}, err
	}
	// What an earlier stay left would be copied onto: each run makes its images.
	if err := v.guest.ForgetDisks(ctx, other(v.lab, from)); err != nil {
		return aim{}, err
	}
	return v.again(ctx)
}

func (v *labVenue) again(ctx context.Context) (aim, error) {
	from, err := v.guest.Host(ctx)
	if err != nil {
		return aim{}, err
	}
	to := other(v.lab, from)
	args, err := v.way(ctx, v.guest, from, to)
	return aim{guest: v.guest, from: from, to: to, args: args}, err
}

// other is the host that the guest is not on.
func other(lab *testenv.Lab, from *testenv.Host) *testenv.Host {
	hosts := lab.Hosts()
	if hosts[0].Name() == from.Name() {
		return hosts[1]
	}
	return hosts[0]
}

func (v *labVenue) address() string { return v.guest.OracleAddress() }

func (v *labVenue) oracle(ctx context.Context) (*oracle.Client, error) {
	return v.guest.Oracle(ctx)
}

func (v *labVenue) verify(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, verifyPatience)
	defer stop()
	verdict, err := v.guest.Verify(ctx)
	switch {
	case err != nil:
		return err
	case verdict.HostError != "":
		return errors.New(verdict.HostError)
	case !verdict.OK:
		what := verdict.Report.Error
		if len(verdict.Findings.List) > 0 {
			what = verdict.Findings.List[0].String()
		}
		return fmt.Errorf("the guest is not whole: %d findings: %s", verdict.Findings.Total(), what)
	}
	return nil
}
