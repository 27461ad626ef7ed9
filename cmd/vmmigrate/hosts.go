package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/engine"
	"github.com/vmmigrate/vmmigrate/migrate/libvirthost"
	"github.com/vmmigrate/vmmigrate/migrate/qemuhost"
)

// openHost connects to the host of that URI with the driver its scheme asks for.
func openHost(ctx context.Context, uri string, log *slog.Logger) (migrate.Host, error) {
	if qemuhost.Handles(uri) {
		return hostOf(qemuhost.Dial(ctx, uri, qemuhost.Options{Log: log}))
	}
	return hostOf(libvirthost.Open(ctx, uri, libvirthost.Options{Log: log}))
}

// hostOf keeps a driver's nil from becoming an interface that is not nil.
func hostOf[H migrate.Host](h H, err error) (migrate.Host, error) {
	if err != nil {
		return nil, err
	}
	return h, nil
}

// pair is both ends of a migration.
type pair struct{ src, dst migrate.Host }

// openPair connects to both ends. side tells which one an error is about.
func openPair(ctx context.Context, source, dest string, log *slog.Logger) (p pair, side migrate.Side, err error) {
	if p.src, err = openHost(ctx, source, log); err != nil {
		return pair{}, migrate.SideSource, err
	}
	if p.dst, err = openHost(ctx, dest, log); err != nil {
		p.close()
		return pair{}, migrate.SideDestination, err
	}
	return p, "", nil
}

func (p pair) close() {
	for _, h := range []migrate.Host{p.src, p.dst} {
		if h != nil {
			_ = h.Close()
		}
	}
}

// nbdEngine is the engine in which agents of ours move the RAM. They are started, or reached, where the hosts are.
func nbdEngine(log *slog.Logger) migrate.Engine {
	return &engine.NBD{Log: log, Connect: connector(log)}
}

// connector starts, or reaches, agents.
func connector(log *slog.Logger) engine.Connect {
	return agent.Connector{Version: agentVersion(), Log: log}.Connect
}

// pickEngine gives the engine of a name that check has resolved.
func pickEngine(n migrate.EngineName, log *slog.Logger) (migrate.Engine, error) {
	switch n {
	case migrate.EngineNative:
		return &engine.Native{Log: log, Connect: connector(log)}, nil
	case migrate.EngineNBD:
		if e := nbdEngine(log); e != nil {
			return e, nil
		}
	}
	return nil, usagef("engine %q is not in this version; use native", n)
}

// askedEngine reads --engine.
func askedEngine(name string, log *slog.Logger) (migrate.EngineName, error) {
	n, err := migrate.ParseEngine(name)
	if err != nil {
		return "", usageError{err}
	}
	if n != migrate.EngineAuto {
		_, err = pickEngine(n, log)
	}
	return n, err
}

// engineNamed is pickEngine for a journal that names its engine.
func engineNamed(log *slog.Logger) func(migrate.EngineName) (migrate.Engine, error) {
	return func(n migrate.EngineName) (migrate.Engine, error) {
		e, err := pickEngine(n, log)
		if err != nil {
			return nil, fmt.Errorf("the journal's migration cannot be driven: %w", err)
		}
		return e, nil
	}
}
