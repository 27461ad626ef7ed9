package worker

import "time"

// A guest that gets pages on demand alone must not have asked for one for quietFor, or must have had demandFor of it, before the
// rest is fetched all the same: a migration has to end.
const (
	quietFor  = 2 * time.Second
	demandFor = 30 * time.Second
)

// drainWhenQuiet is called every so often while pages are missing.
func (r *paging) drainWhenQuiet(policy string) {
	if policy != "none" {
		return
	}
	now, n := time.Now(), r.p.Stats().RemoteFaults
	if r.demandFrom.IsZero() {
		r.demandFrom = now
	}
	if n != r.faultsSeen || r.faultsAt.IsZero() {
		r.faultsSeen, r.faultsAt = n, now
	}
	if now.Sub(r.faultsAt) >= quietFor || now.Sub(r.demandFrom) >= demandFor {
		r.p.Drain()
	}
}
