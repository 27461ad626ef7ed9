// Package journal keeps on disk what a migration has to remember when its coordinator dies. It implements
// migrate.Journal on SQLite, in a directory that the caller chooses.
//
//	DIR/journal.db          migrations, steps, progress, requests, reports, waits (WAL; synchronous=FULL)
//	DIR/run/wait-ID.lock    locked as long as a process waits with a migration that has not begun
//	DIR/run/ID.lock         locked as long as the migration's coordinator lives
//	DIR/run/guest-….lock    locked as long as somebody migrates this guest away from this host
//
// A step's record is on the disk when Log.Write returns, so that what is done next is never done unrecorded. Progress is
// only a snapshot for those who watch, and is not waited for. The locks belong to open files: the kernel drops them when
// the coordinator is killed, so that a dead one is seen at once and never by guessing from a process id.
//
// A guest whose last migration was left behind after its commit is not migrated again before it was recovered; one that
// was left behind before the commit may be. That one then knows nothing of what became of the guest, so it is not taken up
// again as long as the later migration is open after its commit.
//
// The database has a version. A newer one is refused and left untouched, an older one is brought up to date in one
// transaction. A file that is no journal, a directory that is missing, full or read-only each give an error of its own
// with a fix; nothing is ever deleted to make such an error go away.
//
// A Journal is safe for use by several goroutines, and several processes may have the same directory open. It starts no
// goroutines of its own. Close waits for running calls and is idempotent; a Log that is open then still holds its locks
// until its own Close.
//
// It does not replicate: the journal lives where the coordinator runs. Without it, both hosts still know their guests.
package journal
