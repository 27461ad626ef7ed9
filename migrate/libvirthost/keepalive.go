package libvirthost

import (
	"fmt"
	"time"
)

// libvirt's own client sends a ping each 5 s and gives up after 6 without any answer.
const (
	pingEvery = 5 * time.Second
	pingLimit = 6
)

// pulse answers the daemon's keepalives and sends ours. Traffic of any kind counts as a sign of life.
type pulse struct {
	w    *wire
	ping bool // the daemon answers pings
	pong chan struct{}
}

func newPulse() *pulse { return &pulse{pong: make(chan struct{}, 1)} }

// take consumes keepalive packets; it is called by the reader and never blocks.
func (p *pulse) take(h header) bool {
	if h.prog != progKeepalive {
		return false
	}
	if h.proc == procPing {
		select {
		case p.pong <- struct{}{}:
		default: // one is already owed
		}
	}
	return true
}

func keepalive(proc uint32) []byte {
	return packet(header{prog: progKeepalive, vers: 1, proc: proc, typ: typeMessage}, nil)
}

// run lives as long as the connection. It fails the wire when the peer has been silent for pingLimit periods.
func (p *pulse) run(every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	seen, silent := p.w.packets.Load(), 0
	for {
		select {
		case <-p.w.dead:
			return
		case <-p.pong:
			p.w.inject(keepalive(procPong))
		case <-t.C:
			if !p.ping {
				continue
			}
			if now := p.w.packets.Load(); now != seen {
				seen, silent = now, 0
			} else if silent++; silent >= pingLimit {
				p.w.fail(fmt.Errorf("no answer from the daemon for %v", time.Duration(pingLimit)*every))
				return
			}
			p.w.inject(keepalive(procPing))
		}
	}
}
