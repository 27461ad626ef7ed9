package engine

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

// listenLink is where an agent at the destination is to listen, whose address is host to the source.
func (s *session) listenLink(src, dst migrate.Place, host string) agent.Link {
	l := agent.Link{Addr: net.JoinHostPort(s.job.Params.ListenAddress, "0"), Ports: [2]int{49152, 49215}} // libvirt's own, which firewalls let through
	if s.job.Params.ListenAddress == "" && src.Local && dst.Local && isLoopback(host) {
		l.Addr = net.JoinHostPort(host, "0")
	}
	return l
}

// destAddress is the destination's address as the source can reach it: from the migration URI or address that the user
// gave, or the host's own name.
func (s *session) destAddress(ctx context.Context, dst migrate.Place) (string, error) {
	if u, err := url.Parse(s.job.Params.MigrateURI); err == nil && u.Hostname() != "" {
		return u.Hostname(), nil
	}
	if a := s.job.Params.ListenAddress; a != "" && !strings.HasPrefix(a, "0.") && a != "::" {
		return a, nil
	}
	if dst.Local && dst.PIDFile == nil {
		return "127.0.0.1", nil // a bare QEMU listens there, too, unless told otherwise
	}
	if dst.Name != "" {
		return dst.Name, nil
	}
	f, err := s.dst.Facts(ctx)
	if err == nil && f.Hostname == "" {
		err = errors.New("it does not tell its name")
	}
	return f.Hostname, migrate.Fail("find the destination's address", migrate.SideDestination, err, "give it as MIGRATEURI, such as tcp://HOST")
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
