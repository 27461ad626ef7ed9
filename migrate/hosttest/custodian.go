package hosttest

import "github.com/vmmigrate/vmmigrate/migrate"

// custodianRefuses asks for repairs that would cost a guest.
func custodianRefuses(r *run) {
	r.wantRefused("Release of a running guest", r.Source.Release(r.ctx, r.Name, false))
	r.wantRefused("Discard of a running guest", r.Source.Discard(r.ctx, r.Name))
	_ = r.Source.ResumeGuest(r.ctx, r.Name) // it may say that there is nothing to do
	r.wantHome()
	r.copied()
	r.wantRefused("ResumeGuest of a guest that has not arrived", r.Dest.ResumeGuest(r.ctx, r.Name))
	r.land()
	r.wantRefused("Release of the guest that landed", r.Dest.Release(r.ctx, r.Name, false))
	r.wantRefused("Discard of the guest that landed", r.Dest.Discard(r.ctx, r.Name))
	r.wantRefused("Finish(false) of the guest that landed", r.Dest.Finish(r.ctx, r.offer, r.p, r.ticket, false))
	r.wantRun(migrate.SideDestination, migrate.RunRunning)
	r.wantWhole(migrate.SideDestination)
	r.release()
}

// custodianResumes plays a coordinator that died when the guest stood still, before the commit.
func custodianResumes(r *run) {
	r.copied()
	r.must("Discard", r.Dest.Discard(r.ctx, r.Name))
	r.wantRun(migrate.SideDestination, "", migrate.RunStopped)
	r.must("ResumeGuest", r.Source.ResumeGuest(r.ctx, r.Name))
	r.wantHome()
}

// custodianDiscards plays a coordinator that died while it prepared.
func custodianDiscards(r *run) {
	r.start()
	r.must("Discard", r.Dest.Discard(r.ctx, r.Name))
	r.wantRun(migrate.SideDestination, "", migrate.RunStopped)
	r.must("Cancel", r.Source.Cancel(r.ctx, r.Name))
	r.wantHome()
}

// custodianReleases plays a coordinator that died when the guest ran at the destination.
func custodianReleases(r *run) {
	r.copied()
	r.land()
	r.must("Release", r.Source.Release(r.ctx, r.Name, r.p.UndefineSource))
	r.wantRun(migrate.SideSource, "", migrate.RunStopped)
	r.wantRun(migrate.SideDestination, migrate.RunRunning)
	r.wantWhole(migrate.SideDestination)
}

// custodianAfterSwitch plays a coordinator that died between the switch and the destination's order to run. A driver may
// let the guest run where it has arrived, or refuse to.
func custodianAfterSwitch(r *run) {
	r.copied()
	r.must("switch", r.Source.Switch(r.ctx, r.offer, r.p))
	err := r.Dest.ResumeGuest(r.ctx, r.Name)
	if err != nil {
		r.t.Logf("the driver refuses: %v", err)
		r.must("finish", r.Dest.Finish(r.ctx, r.offer, r.p, r.ticket, true))
	}
	r.wantRun(migrate.SideDestination, migrate.RunRunning)
	r.wantWhole(migrate.SideDestination)
	r.must("Release", r.Source.Release(r.ctx, r.Name, r.p.UndefineSource))
	r.wantRun(migrate.SideSource, "", migrate.RunStopped)
}
