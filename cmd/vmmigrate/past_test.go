package main

import (
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/check"
	"github.com/vmmigrate/vmmigrate/migrate/journal"
)

// ran puts a migration that has ended into the journal.
func ran(t *testing.T, db *journal.Journal, e migrate.Entry, r migrate.Report) {
	t.Helper()
	log, err := db.Begin(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Write(t.Context(), migrate.Record{At: e.Started, Phase: migrate.PhaseChecking, Owner: migrate.OwnerSource}); err != nil {
		t.Fatal(err)
	}
	r.Engine, r.Owner, r.Strategy = e.Engine, migrate.OwnerDestination, e.Params.Strategy
	if err := log.End(t.Context(), r, true); err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
}

func pointMS(total, pause float64, sent int64) migrate.ReportPoint {
	return migrate.ReportPoint{TotalMS: total, DowntimeMS: &pause, SentBytes: sent}
}

// took is the report of a run that was forecast to take half as long, and sent its RAM over a link of 100 MB/s.
func took(total float64, nonZero int64) migrate.Report {
	pause, sent, dirty := 40.0, nonZero+1<<20, int64(3<<20)
	model := pointMS(total/2, 20, nonZero)
	return migrate.Report{
		Outcome: migrate.OutcomeCompleted, TotalMS: &total, DowntimeMS: &pause,
		RAM:       &migrate.ReportRAM{SentBytes: &sent, DirtyBytesPerS: &dirty, Rounds: []migrate.ReportRound{{Bytes: nonZero, MS: float64(nonZero) / 1e5}, {Bytes: 1 << 20, MS: 1}}},
		Predicted: map[migrate.Strategy]migrate.ReportPrediction{migrate.StrategyPrecopy: {ReportPoint: model, Model: &model}},
	}
}

// What earlier runs took changes what is forecast for the next: those of the guest its cost, those between the hosts the link.
func TestPastRunsTellOfTheNext(t *testing.T) {
	db, err := journal.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	begin := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	entry := func(id, uuid, from, to string, at int) migrate.Entry {
		return migrate.Entry{ID: id, Domain: "web", DomainUUID: uuid, Source: from, Dest: to, Engine: migrate.EngineNative,
			Params: migrate.Params{Strategy: migrate.StrategyPrecopy}, Started: begin.Add(time.Duration(at) * time.Minute)}
	}
	ran(t, db, entry("m-1", "u", "a", "b", 0), took(8000, 300<<20))
	ran(t, db, entry("m-2", "u", "b", "a", 1), took(8000, 400<<20))
	ran(t, db, entry("m-3", "other", "a", "c", 2), took(1000, 900<<20))
	failed := took(9000, 500<<20)
	failed.Outcome = migrate.OutcomeCancelled
	ran(t, db, entry("m-4", "u", "a", "b", 3), failed)

	res := check.Result{Domain: "web", Source: "a", Destination: "b", Engine: migrate.EngineNative, Work: &check.Work{RAMBytes: 1 << 30},
		Strategies: []check.Choice{{Strategy: migrate.StrategyPrecopy, Possible: true, Certain: true}}}
	got, err := taskOf(t.Context(), res, db, "u", 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.past.runs) != 2 || got.guest.NonZero != 400<<20 || got.past.dirty != 3<<20 {
		t.Errorf("%+v", got.past)
	}
	if b := got.link.Bandwidth; b < 0.99e8 || b > 1.01e8 || got.assumed {
		t.Errorf("a link of %g bytes/s", b)
	}
	seen, err := got.past.outlook(begin)
	if err != nil {
		t.Fatal(err)
	}
	p := got.foretell(seen, begin)[migrate.StrategyPrecopy]
	if ratio := p.TotalMS / p.Model.TotalMS; ratio < 1.2 || ratio > 2 || !(p.Low.TotalMS <= p.TotalMS && p.TotalMS <= p.High.TotalMS) {
		t.Errorf("%+v; the model alone %+v", p.ReportPoint, *p.Model)
	}
	if other, err := taskOf(t.Context(), res, db, "new", 0); err != nil || len(other.past.runs) != 0 || other.guest.NonZero != 0 || other.assumed {
		t.Errorf("another guest: %+v, %v", other, err)
	}
}

func TestNotZeroAndCarried(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	rounds := []migrate.ReportRound{{Bytes: 64 << 20, MS: 1000}, {Bytes: 1 << 20, MS: 1}}
	for name, c := range map[string]struct {
		r       migrate.Report
		nonZero int64
		carried float64
	}{
		"pre-copy":      {migrate.Report{Strategy: migrate.StrategyPrecopy, RAM: &migrate.ReportRAM{SentBytes: n(65 << 20), Rounds: rounds}}, 64 << 20, 64 << 20},
		"counted":       {migrate.Report{Strategy: migrate.StrategyPrecopy, RAM: &migrate.ReportRAM{NonzeroBytes: n(5), Rounds: rounds}}, 5, 64 << 20},
		"partly reused": {migrate.Report{Strategy: migrate.StrategyPrecopy, RAM: &migrate.ReportRAM{ReusedPages: n(5), Rounds: rounds}}, 0, 64 << 20},
		"post-copy": {migrate.Report{Strategy: migrate.StrategyPostcopy, RAM: &migrate.ReportRAM{SentBytes: n(64 << 20)},
			Phases: []migrate.ReportPhase{{Name: "paging", MS: 2000}}}, 64 << 20, 32 << 20},
		"nothing": {migrate.Report{RAM: &migrate.ReportRAM{}}, 0, 0},
	} {
		if got := notZero(c.r); got != c.nonZero {
			t.Errorf("%s: %d are not zero", name, got)
		}
		if got := carried(c.r); got != c.carried {
			t.Errorf("%s: %g carried", name, got)
		}
	}
}

// A link of which nothing is known gives wide ranges, and the same expectation.
func TestAGuessedLinkIsToldAsOne(t *testing.T) {
	begin := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	seen, err := past{dirty: 1 << 20}.outlook(begin)
	if err != nil {
		t.Fatal(err)
	}
	known := gigabit(migrate.StrategyPrecopy)
	guessed := known
	guessed.assumed = true
	k, g := known.foretell(seen, begin)[migrate.StrategyPrecopy], guessed.foretell(seen, begin)[migrate.StrategyPrecopy]
	if g.TotalMS != k.TotalMS || g.High.TotalMS < 1.5*k.High.TotalMS || g.Low.TotalMS >= k.Low.TotalMS {
		t.Errorf("known: %+v to %+v, guessed: %+v to %+v", k.Low, k.High, g.Low, g.High)
	}
}
