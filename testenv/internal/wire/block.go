package wire

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
)

// Priorities of the routing rules in a host. The kernel looks at the local table
// first (priority 0); it is moved back, so that a black hole can come before it.
const (
	blockPriority = 10
	localPriority = 100
)

// Ports is a range of ports, both ends included.
type Ports struct {
	Low  uint16 `json:"low"`
	High uint16 `json:"high"`
}

// String writes the range as "49152-49215", or as one number.
func (p Ports) String() string {
	if p.Low == p.High {
		return fmt.Sprint(p.Low)
	}
	return fmt.Sprintf("%d-%d", p.Low, p.High)
}

// check refuses what is not a range.
func (p Ports) check() error {
	if p.Low == 0 || p.Low > p.High {
		return fmt.Errorf("ports %d-%d are not a range from 1 to 65535", p.Low, p.High)
	}
	return nil
}

// makeRoomForBlocks moves the rule for the host's own addresses behind the place
// of the black holes.
func makeRoomForBlocks(nl *netlink.Handle) error {
	local := netlink.NewRule()
	local.Table = unix.RT_TABLE_LOCAL
	local.Priority = localPriority
	if err := nl.RuleAdd(local); err != nil {
		return fmt.Errorf("move the local routing rule: %w", err)
	}
	first := netlink.NewRule()
	first.Table = unix.RT_TABLE_LOCAL
	first.Priority = 0
	if err := nl.RuleDel(first); err != nil {
		return fmt.Errorf("move the local routing rule: %w", err)
	}
	return nil
}

// blockRules are the rules that drop what comes in over the migration link for
// the ports.
func blockRules(p Ports) []*netlink.Rule {
	var rules []*netlink.Rule
	for _, proto := range []int{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		r := netlink.NewRule()
		r.Priority = blockPriority
		r.Family = unix.AF_INET
		r.IifName = layout.MigrationDevice
		r.IPProto = proto
		r.Dport = netlink.NewRulePortRange(p.Low, p.High)
		r.Type = unix.FR_ACT_BLACKHOLE
		rules = append(rules, r)
	}
	return rules
}

// Block drops what other hosts send to the ports of the host, without an answer.
// It is idempotent.
func (w *Wire) Block(host string, p Ports) error {
	return w.eachRule(host, p, func(nl *netlink.Handle, r *netlink.Rule) error {
		if err := nl.RuleAdd(r); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("block ports %v of %s: %w", p, host, err)
		}
		return nil
	})
}

// Unblock undoes Block for exactly that range. It is idempotent.
func (w *Wire) Unblock(host string, p Ports) error {
	return w.eachRule(host, p, func(nl *netlink.Handle, r *netlink.Rule) error {
		if err := nl.RuleDel(r); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("unblock ports %v of %s: %w", p, host, err)
		}
		return nil
	})
}

func (w *Wire) eachRule(host string, p Ports, fn func(*netlink.Handle, *netlink.Rule) error) error {
	if err := p.check(); err != nil {
		return err
	}
	return w.with(host, func(c *cable) error {
		for _, r := range blockRules(p) {
			if err := fn(c.nl, r); err != nil {
				return err
			}
		}
		return nil
	})
}

// Blocked lists the ranges that are blocked at the host, as the kernel has them.
func (w *Wire) Blocked(host string) ([]Ports, error) {
	var list []Ports
	err := w.with(host, func(c *cable) error {
		rules, err := c.nl.RuleList(unix.AF_INET)
		if err != nil {
			return fmt.Errorf("list the rules of %s: %w", host, err)
		}
		for _, r := range rules {
			if r.Priority == blockPriority && r.IPProto == unix.IPPROTO_TCP && r.Dport != nil {
				list = append(list, Ports{Low: r.Dport.Start, High: r.Dport.End})
			}
		}
		return nil
	})
	return list, err
}
