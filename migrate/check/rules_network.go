package check

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// ruleLinks: what the network cards are plugged into exists at the destination.
func ruleLinks(f Facts) []Finding {
	t := thereOf(f)
	if t == nil {
		return nil
	}
	var out []Finding
	done := map[Link]bool{}
	for _, n := range t.NICs {
		l := Link{n.Kind, n.Source}
		if !done[l] {
			done[l] = true
			out = append(out, ruleLink(f, n, f.Links[l])...)
		}
	}
	return out
}

func ruleLink(f Facts, n migrate.NIC, has Answer[bool]) []Finding {
	id, fix := IDBridgeMissing, fmt.Sprintf("create it there: ip link add %s type bridge && ip link set %s up", n.Source, n.Source)
	if n.Kind == "network" {
		id, fix = IDNetworkMissing, "start it there: "+virsh(f.Dest.URI, "net-start %s", shellWord(n.Source))
	}
	switch {
	case has.Open():
		return untold(id, migrate.SideDestination, fmt.Sprintf("whether %s %s exists there", n.Kind, n.Source), has.Why, fix)
	case has.OK && !has.Value:
		return one(id, Blocker, migrate.SideDestination, fmt.Sprintf("%s %s does not exist there, or is down", n.Kind, n.Source),
			"network card "+n.MAC+" is plugged into it", fix+", or name another with --xml FILE")
	}
	return nil
}

// ruleName: the source finds the destination under the name that it will be given.
func ruleName(f Facts) []Finding {
	r := f.Reach
	if r.Name == "" || !r.Addresses.asked() {
		return nil
	}
	fix := fmt.Sprintf("add %s to /etc/hosts of the source, or name an address: --migrateuri tcp://ADDRESS", r.Name)
	if r.Addresses.Open() || r.Here && len(r.Addresses.Value) == 0 {
		return untold(IDNameUnresolved, migrate.SideSource, fmt.Sprintf("whether the source can resolve %s", r.Name), from(r, r.Addresses.Why), fix)
	}
	if len(r.Addresses.Value) == 0 {
		return one(IDNameUnresolved, Blocker, migrate.SideSource, fmt.Sprintf("the source cannot resolve the destination's name %s", r.Name),
			"seen from "+r.From, fix)
	}
	if !allLoopback(r.Addresses.Value) || r.SameNetwork.OK && r.SameNetwork.Value {
		return nil
	}
	said := fmt.Sprintf("%s means %s", r.Name, strings.Join(r.Addresses.Value, ", "))
	if r.Here || !r.SameNetwork.OK {
		return untold(IDNameLoopback, migrate.SideSource, fmt.Sprintf("whether %s means the destination at the source", r.Name), from(r, said), fix)
	}
	return one(IDNameLoopback, Blocker, migrate.SideSource, fmt.Sprintf("at the source, the name %s means the source itself", r.Name), said, fix)
}

// from says where something was seen.
func from(r Reach, what string) string {
	switch {
	case r.From == "":
		return what
	case what == "":
		return "seen from " + r.From
	}
	return "seen from " + r.From + ": " + what
}

func allLoopback(addrs []string) bool {
	for _, a := range addrs {
		ip, err := netip.ParseAddr(a)
		if err != nil || !ip.IsLoopback() {
			return false
		}
	}
	return len(addrs) > 0
}

// rulePorts: the source reaches the ports that the migration will use.
func rulePorts(f Facts) []Finding {
	type kind struct {
		purpose, ports string
		seen           Contact
	}
	done := map[kind]bool{}
	var out []Finding
	for _, p := range f.Reach.Ports {
		// Of a range several ports were dialled; once is enough to say what became of them.
		k := kind{p.Purpose, p.Range, p.Seen.Value}
		if p.Range != "" && done[k] {
			continue
		}
		done[k] = true
		out = append(out, rulePort(f, p)...)
	}
	return out
}

func rulePort(f Facts, p PortFacts) []Finding {
	what := p.Address + " (" + p.Purpose + ")"
	if p.Range != "" {
		what = p.Address + " (" + p.Purpose + ", ports " + p.Range + ")"
	}
	if p.Taken {
		return one(IDPortBusy, Blocker, migrate.SideDestination, "port "+p.Address+" is already taken there",
			"it was asked for "+p.Purpose, "name another port, or see who has it: ss -tlnp sport = :"+portOf(p.Address))
	}
	open := "open it there: " + firewall(p)
	if p.Seen.Open() {
		return untold(IDPortBlocked, migrate.SideSource, "whether the source reaches "+what, from(f.Reach, p.Seen.Why), open)
	}
	if f.Reach.Here && p.Seen.OK {
		return untold(IDPortBlocked, migrate.SideSource, "whether the source reaches "+what,
			fmt.Sprintf("there is no way to look from the source; seen from %s: %s", f.Reach.From, p.Seen.Value), open)
	}
	switch {
	case p.Seen.Value == ContactBlocked:
		return one(IDPortBlocked, Blocker, migrate.SideSource, "the source does not reach "+what, from(f.Reach, "no answer"), open)
	case p.Daemon && p.Seen.Value == ContactRefused:
		return one(IDPortClosed, Blocker, migrate.SideDestination, "nothing listens on "+what, from(f.Reach, "connection refused"),
			daemonFix(portOf(p.Address)))
	}
	return nil
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// firewall is a command that opens what the port stands for.
func firewall(p PortFacts) string {
	ports := portOf(p.Address)
	if p.Range != "" {
		ports = p.Range
	}
	return "firewall-cmd --add-port=" + ports + "/tcp, or nft/ufw likewise"
}

// daemonFix starts what listens on a port of libvirt's.
func daemonFix(port string) string {
	switch port {
	case "16514":
		return "there: systemctl start libvirtd-tls.socket (or virtproxyd-tls.socket)"
	case "16509":
		return "there: systemctl start libvirtd-tcp.socket (or virtproxyd-tcp.socket)"
	case "22":
		return "there: systemctl start ssh"
	}
	return "start the daemon there that should listen on it"
}

// ruleClear: without TLS everybody on the way can read the guest's RAM.
func ruleClear(f Facts) []Finding {
	u := f.Params.MigrateURI
	if byNBD(f) && !f.Params.PlainData {
		return nil // the agents encrypt
	}
	if guestOf(f) == nil || f.Params.TLS || strings.HasPrefix(u, "unix:") || f.Reach.SameNetwork.OK && f.Reach.SameNetwork.Value {
		return nil
	}
	return one(IDInClear, Info, migrate.SideSource, "RAM goes over the network unencrypted", "", "use --tls if others can listen on the way")
}
