package testenv

import (
	"context"
	"net/netip"

	"github.com/vmmigrate/vmmigrate/testenv/internal/control"
	"github.com/vmmigrate/vmmigrate/testenv/internal/daemon"
	"github.com/vmmigrate/vmmigrate/testenv/internal/wire"
)

// StatusSchema is the value of Status.Schema.
const StatusSchema = "vmmigrate.lab/v1"

// Status is a lab at one moment.
type Status struct {
	// Schema is StatusSchema.
	Schema string        `json:"schema"`
	Name   string        `json:"name"`
	Dir    string        `json:"dir"`
	Bound  bool          `json:"bound"`
	Hosts  []HostStatus  `json:"hosts"`
	Guests []GuestStatus `json:"guests"`
}

// Ports is a range of ports, both ends included.
type Ports = wire.Ports

// HostStatus is one host of it.
type HostStatus struct {
	Name    string     `json:"name"`
	URI     string     `json:"uri"`
	UUID    string     `json:"uuid"`
	Address netip.Addr `json:"address"`
	// Libvirtd is "running", "stopped", or how it ended.
	Libvirtd string `json:"libvirtd"`
	// Link is the link's spec; Cut says that its cable is pulled.
	Link string `json:"link"`
	Cut  bool   `json:"cut"`
	// Blocked are the ranges of ports that are dropped.
	Blocked  []Ports  `json:"blocked"`
	Counters Counters `json:"counters"`
}

// GuestStatus is one guest of it.
type GuestStatus struct {
	Name    string      `json:"name"`
	Address netip.Addr  `json:"address"`
	Where   []Presence  `json:"where"`
	Config  GuestConfig `json:"config"`
}

// Status asks the daemon and every libvirtd how things are.
func (l *Lab) Status(ctx context.Context) (Status, error) {
	var d daemon.Status
	if err := l.call(ctx, control.Request{Op: daemon.OpStatus}, &d); err != nil {
		return Status{}, err
	}
	s := Status{Schema: StatusSchema, Name: l.Name(), Dir: l.Dir(), Bound: l.state.Bound, Hosts: []HostStatus{}, Guests: []GuestStatus{}}
	for _, hs := range d.Hosts {
		h, err := l.Host(hs.Name)
		if err != nil {
			return Status{}, err
		}
		s.Hosts = append(s.Hosts, HostStatus{
			Name: h.Name(), URI: h.URI(), UUID: h.UUID(), Address: h.Address(), Libvirtd: hs.Libvirtd,
			Link: hs.Link.String(), Cut: hs.Cut, Blocked: hs.Blocked, Counters: hs.Counters,
		})
	}
	guests, err := l.Guests(ctx)
	if err != nil {
		return Status{}, err
	}
	for _, g := range guests {
		s.Guests = append(s.Guests, GuestStatus{Name: g.Name(), Address: g.Address(), Where: g.Where(ctx), Config: g.Config()})
	}
	return s, nil
}
