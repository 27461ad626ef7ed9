package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent/internal/line"
)

// Protocol is the version of what coordinator and agent say to each other. It changes with every change of a message.
const Protocol = 3

// Sentinels of agents. An *migrate.OpError wraps them.
var (
	// ErrVersion: the two ends are of different protocols.
	ErrVersion = errors.New("coordinator and agent are of different versions")
	// ErrClosed: the connection, or this end of the migration, was closed before.
	ErrClosed = errors.New("the agent's connection was closed")
)

const (
	roleAgent       = "agent"
	roleCoordinator = "coordinator"

	// greetingTimeout bounds the time until both ends know each other.
	greetingTimeout = 15 * time.Second
)

// greeting is the first line of either end, before any gRPC: the agent's comes first. It says enough to part in peace.
type greeting struct {
	// Role is "agent" or "coordinator".
	Role     string `json:"vmmigrate"`
	Protocol int    `json:"protocol"`
	// Version is the program's.
	Version string `json:"version"`
	// Refused is why the agent does not let this coordinator in, and Fix what to do.
	Refused string `json:"refused,omitempty"`
	Fix     string `json:"fix,omitempty"`
}

// looseGreeting is what every version of a greeting has.
type looseGreeting struct {
	Role     string `json:"vmmigrate"`
	Protocol int    `json:"protocol"`
	Version  string `json:"version"`
}

func ours(role, version string) greeting {
	return greeting{Role: role, Protocol: Protocol, Version: version}
}

// parseGreeting reads the line of an end that should have that role. Another protocol may have other fields.
func parseGreeting(b []byte, role, version string) (greeting, error) {
	var g greeting
	var loose looseGreeting
	if err := looseJSON(b, &loose); err != nil || loose.Role != role {
		return g, fmt.Errorf("this is no %s that answers: %.100q", role, b)
	}
	if loose.Protocol != Protocol {
		return g, versionError(role, loose, version)
	}
	return g, line.Decode(b, &g)
}

// versionError names both versions.
func versionError(role string, they looseGreeting, version string) error {
	us := roleCoordinator
	if role == roleCoordinator {
		us = roleAgent
	}
	return migrate.Fail("meet the "+role, "", fmt.Errorf("%w: the %s is %.60s (protocol %d), this %s is %s (protocol %d)",
		ErrVersion, role, they.Version, they.Protocol, us, version, Protocol),
		"install the same version of vmmigrate at both ends")
}

// bounded lets f talk over conn until ctx ends or the time for greetings is over.
func bounded(ctx context.Context, conn net.Conn, f func() error) error {
	if err := conn.SetDeadline(time.Now().Add(greetingTimeout)); err != nil {
		return fmt.Errorf("%w: %w", migrate.ErrLinkLost, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // wakes who reads
	err := f()
	if !stop() {
		return ctx.Err()
	}
	_ = conn.SetDeadline(time.Time{}) // it fails on a connection that has ended, which shows soon enough
	return err
}

// greetAsAgent is the agent's half. refused and fix are empty for who is let in.
func greetAsAgent(ctx context.Context, conn net.Conn, version string, refused error) (peer string, err error) {
	err = bounded(ctx, conn, func() error {
		g := ours(roleAgent, version)
		if refused != nil {
			g.Refused, g.Fix = clip(refused.Error())[:min(len(refused.Error()), 400)], migrate.FixOf(refused)
		}
		if err := line.Write(conn, g); err != nil || refused != nil {
			return errors.Join(refused, err)
		}
		b, err := line.Read(conn)
		if err != nil {
			return fmt.Errorf("the coordinator hung up: %w", err)
		}
		they, err := parseGreeting(b, roleCoordinator, version)
		peer = they.Version
		return err
	})
	return peer, err
}

// greetAsCoordinator is the other half. It tells its version also to an agent that it will not work with, so that both
// ends can name both. noise is how many lines of others it may skip before the agent's.
func greetAsCoordinator(ctx context.Context, conn net.Conn, version string, noise int) (agent greeting, err error) {
	err = bounded(ctx, conn, func() error {
		b, err := firstLine(conn, noise)
		if err != nil {
			return err
		}
		agent, err = parseGreeting(b, roleAgent, version)
		if err == nil && agent.Refused != "" {
			return migrate.Fail("meet the agent", "", errors.New(agent.Refused), agent.Fix)
		}
		if err != nil && !errors.Is(err, ErrVersion) {
			return err
		}
		if werr := line.Write(conn, ours(roleCoordinator, version)); err == nil {
			err = werr
		}
		return err
	})
	return agent, err
}

// firstLine reads the first line that looks like a greeting, past a few others: what a login shell's start-up files say.
func firstLine(conn net.Conn, noise int) ([]byte, error) {
	for {
		b, err := line.Read(conn)
		if err != nil {
			return nil, fmt.Errorf("%w: no agent answers: %w", migrate.ErrLinkLost, err)
		}
		var loose looseGreeting
		if noise--; noise < 0 || looseJSON(b, &loose) == nil && loose.Role != "" {
			return b, nil
		}
	}
}
