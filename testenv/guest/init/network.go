package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"

	"github.com/vmmigrate/vmmigrate/testenv/guest/param"
)

// configureNetwork gives the guest's card its address and brings it up.
func configureNetwork(cfg param.Config) error {
	if lo, err := netlink.LinkByName("lo"); err == nil {
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("lo: %w", err)
		}
	}
	card, err := findCard(cfg.MAC)
	if err != nil {
		return err
	}
	name := card.Attrs().Name
	addr := &netlink.Addr{IPNet: &net.IPNet{
		IP: cfg.Addr.Addr().AsSlice(), Mask: net.CIDRMask(cfg.Addr.Bits(), 32)}}
	if err := netlink.AddrAdd(card, addr); err != nil {
		return fmt.Errorf("%s: address %v: %w", name, cfg.Addr, err)
	}
	if err := netlink.LinkSetUp(card); err != nil {
		return fmt.Errorf("%s: up: %w", name, err)
	}
	if !cfg.Gateway.IsValid() {
		return nil
	}
	route := &netlink.Route{LinkIndex: card.Attrs().Index, Gw: cfg.Gateway.AsSlice()}
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("%s: gateway %v: %w", name, cfg.Gateway, err)
	}
	return nil
}

// findCard is the card with that address, or the first one when mac is nil.
func findCard(mac net.HardwareAddr) (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	var seen []string
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 || len(a.HardwareAddr) != 6 {
			continue
		}
		if mac == nil || bytes.Equal(a.HardwareAddr, mac) {
			return l, nil
		}
		seen = append(seen, a.HardwareAddr.String())
	}
	if len(seen) == 0 {
		return nil, errors.New("no network card: give the guest a virtio-net device")
	}
	return nil, fmt.Errorf("no network card with address %v, only %v", mac, seen)
}
