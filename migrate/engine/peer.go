package engine

import (
	"context"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// peerSession leaves the phases to the source's daemon (libvirt's peer-to-peer), which survives us. The commit is
// written before it starts, because the daemon runs the destination when it sees fit: if we lose it, both ends are asked.
type peerSession struct {
	*session
	peer migrate.PeerMigrator
}

// Prepare only subscribes to the events, and makes images that the destination lacks: the source's daemon prepares it.
func (s *peerSession) Prepare(ctx context.Context) error {
	if err := s.watch(ctx); err != nil {
		return err
	}
	if err := s.mapDisks(ctx); err != nil {
		return err
	}
	return s.makeMissing(ctx)
}

// Copy runs the whole migration.
func (s *peerSession) Copy(ctx context.Context) error {
	if err := s.job.Commit(ctx); err != nil {
		return migrate.Fail("write the commit", migrate.SideCoordinator, err, "")
	}
	uri := s.p.PeerURI
	if uri == "" {
		uri = s.dst.URI()
	}
	params := s.params()
	whole := s.run(func(ctx context.Context) error { return s.peer.MigratePeer(ctx, s.job.Domain, params, uri) })
	return s.attend(ctx, whole)
}

// Resume, Page, Finish and Undo have nothing to do: the daemon did it, or undid it.
func (s *peerSession) Resume(context.Context) error { return nil }
func (s *peerSession) Page(context.Context) error   { return nil }
func (s *peerSession) Finish(context.Context) error { return nil }
func (s *peerSession) Undo(context.Context) error   { return nil }

// Recover starts over with the client-driven phases, which recover a peer-to-peer post-copy just as well.
func (s *peerSession) Recover(ctx context.Context) error { return s.session.Recover(ctx) }
