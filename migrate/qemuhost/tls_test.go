package qemuhost

import (
	"context"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/testenv/pki"
)

// certificates writes what QEMU wants to find in its directory of certificates.
func certificates(t *testing.T, ca *pki.CA) string {
	t.Helper()
	h, err := ca.IssueHost("guesthost", []netip.Addr{netip.MustParseAddr("127.0.0.1")}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for p, f := range h.Files() {
		if path.Dir(p) != "qemu" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, path.Base(p)), f.Content, f.Mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func newCA(t *testing.T) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA("qemuhost test")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// tlsPair is a pair with a disk of its own, whose ends have certificates in the given directories.
func tlsPair(ctx context.Context, t *testing.T, srcDir, dstDir string) (p *pair, dstImage string) {
	t.Helper()
	image := guestImage(t, 20000)
	dstImage = newImage(t, "dst.img", 0xee)
	p = &pair{t: t, src: startQEMU(t, image, withDisk(newImage(t, "src.img", 0x11))...),
		dst: startQEMU(t, image, append(withDisk(dstImage), "-incoming", "defer")...)}
	p.src.uri += "?tls-dir=" + srcDir
	p.dst.uri += "?tls-dir=" + dstDir
	p.a, p.b = p.src.dial(ctx), p.dst.dial(ctx)
	await(ctx, t, "the guest boots", p.src.booted)
	return p, dstImage
}

func TestT3TLSEncryptsRAMAndDisks(t *testing.T) {
	ctx := limit(t, time.Minute)
	ca := newCA(t)
	p, dstImage := tlsPair(ctx, t, certificates(t, ca), certificates(t, ca))
	moveWithDisk(ctx, t, p, migrate.Params{Strategy: migrate.StrategyPrecopy, TLS: true, CopyStorage: migrate.CopyAll,
		Bandwidth: 4 << 20, MaxDowntime: time.Millisecond})
	wantBytes(t, dstImage, 0x33, 1<<20, 65536)
}

func TestT3TLSPostcopy(t *testing.T) {
	ctx := limit(t, time.Minute)
	ca := newCA(t)
	p, _ := tlsPair(ctx, t, certificates(t, ca), certificates(t, ca))
	params := migrate.Params{Strategy: migrate.StrategyPostcopy, TLS: true, Bandwidth: 2 << 20, MaxDowntime: time.Millisecond}
	o, ticket := p.prepared(ctx, params)
	done := make(chan error, 1)
	go func() {
		var err error
		ticket, err = p.a.Perform(ctx, o, params, ticket)
		done <- err
	}()
	waitStats(ctx, t, p.a, done, func(s migrate.Stats) bool { return s.Status == "active" })
	if err := p.a.StartPostcopy(ctx, "guest"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	p.landed(ctx, o, params, ticket)
}

func TestT3TLSRefusesAStranger(t *testing.T) {
	for name, params := range map[string]migrate.Params{
		"RAM":           {},
		"disks":         {CopyStorage: migrate.CopyAll},
		"wrong name":    {TLSDestination: "another.host"},
		"no such files": {},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := limit(t, time.Minute)
			ca, other := newCA(t), newCA(t)
			if name == "wrong name" {
				other = ca
			}
			dir := certificates(t, other)
			if name == "no such files" {
				dir = t.TempDir()
			}
			p, _ := tlsPair(ctx, t, dir, certificates(t, ca))
			params.Strategy, params.TLS, params.MaxDowntime = migrate.StrategyPrecopy, true, 5*time.Second
			o, ticket := p.prepared(ctx, params)
			_, err := p.a.Perform(ctx, o, params, ticket)
			wantMentions(t, err)
			if got := p.state(ctx, p.a); got != migrate.RunRunning {
				t.Errorf("the source is %s", got)
			}
			if has, err := p.a.hasObject(ctx, tlsObject); err != nil || has {
				t.Errorf("the credentials are left behind (%t, %v)", has, err)
			}
			if err := p.b.Finish(ctx, o, params, ticket, false); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestT3TLSMissingAtTheDestination(t *testing.T) {
	ctx := limit(t, time.Minute)
	p, _ := tlsPair(ctx, t, certificates(t, newCA(t)), t.TempDir())
	params := migrate.Params{Strategy: migrate.StrategyPrecopy, TLS: true}
	o, err := p.a.Begin(ctx, "guest", params)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.b.Prepare(ctx, o, params)
	wantMentions(t, err, "load the TLS certificates")
	params.TLS = false
	if _, err := p.b.Prepare(ctx, o, params); err != nil {
		t.Errorf("a Prepare that failed spoilt the destination: %v", err)
	}
}
