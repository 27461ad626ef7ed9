package testenv

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/testenv/internal/control"
	"github.com/vmmigrate/vmmigrate/testenv/internal/daemon"
	"github.com/vmmigrate/vmmigrate/testenv/oracle"
)

// Presence is what one host knows of a guest.
type Presence struct {
	Host string `json:"host"`
	// State is libvirt's word for the domain's state ("running", "paused",
	// "shut off" …), "absent" if the host does not know the domain, or "unknown"
	// if the host does not answer.
	State string `json:"state"`
	// Error says why the state is unknown.
	Error string `json:"error,omitempty"`
}

// stateNames are libvirt's, by number.
var stateNames = []string{"no state", "running", "blocked", "paused", "in shutdown", "shut off", "crashed", "suspended"}

// States of a Presence that are not libvirt's.
const (
	StateAbsent  = "absent"
	StateUnknown = "unknown"
	StateRunning = "running"
)

// wherePatience bounds how long one libvirtd may take to answer Where.
const wherePatience = 10 * time.Second

// Where asks each host's libvirtd, or in a bare lab its QEMU, about the guest. One that does not answer within
// ten seconds is reported as such.
func (g *Guest) Where(ctx context.Context) []Presence {
	var all []Presence
	for _, h := range g.lab.Hosts() {
		ctx, stop := context.WithTimeout(ctx, wherePatience)
		if g.lab.state.Plan.Bare {
			all = append(all, g.qemuState(ctx, h))
			stop()
			continue
		}
		p := Presence{Host: h.Name(), State: StateAbsent}
		err := h.withLibvirt(ctx, func(l *libvirt.Libvirt) error {
			d, err := l.DomainLookupByName(g.Name())
			if noDomain(err) {
				return nil
			}
			if err != nil {
				return err
			}
			state, _, err := l.DomainGetState(d, 0)
			if err == nil && int(state) < len(stateNames) && state >= 0 {
				p.State = stateNames[state]
			}
			return err
		})
		stop()
		if err != nil {
			p.State, p.Error = StateUnknown, err.Error()
		}
		all = append(all, p)
	}
	return all
}

// Errors of Host.
var (
	// ErrNowhere says that no host runs the guest.
	ErrNowhere = errors.New("no host runs the guest")
	// ErrTwice says that more than one host runs it, which must never be.
	ErrTwice = errors.New("more than one host runs the guest")
)

// Host returns the host that runs the guest now. If none or several do, the error
// wraps ErrNowhere or ErrTwice and lists what each host says.
func (g *Guest) Host(ctx context.Context) (*Host, error) {
	name, err := runner(g.Name(), g.Where(ctx))
	if err != nil {
		return nil, err
	}
	return g.lab.Host(name)
}

// runner finds the one host that runs the guest.
func runner(guest string, where []Presence) (string, error) {
	var running, words []string
	for _, p := range where {
		words = append(words, p.Host+": "+p.State)
		if p.State == StateRunning {
			running = append(running, p.Host)
		}
	}
	err := ErrTwice
	switch len(running) {
	case 1:
		return running[0], nil
	case 0:
		err = ErrNowhere
	}
	return "", fmt.Errorf("guest %s: %w (%s)", guest, err, strings.Join(words, ", "))
}

// Witness is what the lab's daemon has seen of the guest since it was ready, from
// the client's side.
func (g *Guest) Witness(ctx context.Context) (oracle.WitnessReport, error) {
	var r oracle.WitnessReport
	err := g.lab.call(ctx, control.Request{Op: daemon.OpWitness, Guest: g.Name()}, &r)
	return r, err
}

// VerdictSchema is the value of Verdict.Schema.
const VerdictSchema = "vmmigrate.verify/v1"

// Verdict is what the guest, the witness and the hosts together say about it.
type Verdict struct {
	// Schema is VerdictSchema.
	Schema string `json:"schema"`
	Guest  string `json:"guest"`
	// OK is true only if every page, disk block and tick is as it should be, the
	// guest never was behind what it had told, and exactly one host runs it.
	OK bool `json:"ok"`
	// Host runs it; empty if none or several do, and then HostError says so.
	Host      string     `json:"host,omitempty"`
	HostError string     `json:"host_error,omitempty"`
	Where     []Presence `json:"where"`
	// Findings are the errors of both reports and of holding one against the other.
	Findings oracle.Findings `json:"findings"`
	// Report is the guest's own, Witness the outside's.
	Report  oracle.Report        `json:"report"`
	Witness oracle.WitnessReport `json:"witness"`
}

// Verify has the guest check itself and holds the result against what was seen from
// outside. The error says that the check could not be made; a guest that is wrong is
// no error but a Verdict that is not OK.
func (g *Guest) Verify(ctx context.Context) (Verdict, error) {
	v := Verdict{Schema: VerdictSchema, Guest: g.Name(), Where: g.Where(ctx)}
	var err error
	if v.Host, err = runner(g.Name(), v.Where); err != nil {
		v.HostError = err.Error()
	}
	// The witness first: the guest may only be ahead of what it has seen.
	if v.Witness, err = g.Witness(ctx); err != nil {
		return v, fmt.Errorf("verify guest %s: %w", g.Name(), err)
	}
	c, err := g.Oracle(ctx)
	if err != nil {
		return v, g.unverified(err)
	}
	defer c.Close()
	if v.Report, err = c.Verify(ctx); err != nil {
		return v, g.unverified(err)
	}
	f, ticks, err := c.Ticks(ctx, v.Report.Seal, oracle.TickLimit)
	if err != nil {
		return v, fmt.Errorf("verify guest %s: %w", g.Name(), err)
	}
	v.judge()
	if !ticks {
		v.Findings.Add(f)
		v.OK = false
	}
	return v, nil
}

// unverified wraps why a check could not be made, with what the guest's kernel said
// if it has crashed.
func (g *Guest) unverified(err error) error {
	if words := g.crash(); words != "" {
		return fmt.Errorf("verify guest %s: %w (%s)", g.Name(), err, words)
	}
	return fmt.Errorf("verify guest %s: %w", g.Name(), err)
}

// judge draws the conclusion.
func (v *Verdict) judge() {
	v.Findings = oracle.Judge(v.Report, v.Witness)
	v.OK = v.Host != "" && v.Report.OK && v.Witness.OK && v.Findings.Total() == 0
}
