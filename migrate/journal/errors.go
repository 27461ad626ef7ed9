package journal

import (
	"errors"
	"fmt"
	"io/fs"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// Sentinels for what can be wrong with the directory. Errors of this package are *migrate.OpError and carry a fix.
var (
	// ErrAbsent: there is no journal in the directory.
	ErrAbsent = errors.New("no journal there")
	// ErrDamaged: the file is no journal, or is damaged.
	ErrDamaged = errors.New("the journal is damaged or is not one")
	// ErrFull: no space is left for it.
	ErrFull = errors.New("no space left for the journal")
	// ErrReadOnly: it cannot be written.
	ErrReadOnly = errors.New("the journal cannot be written")
	// ErrTooLate: a request to cancel comes after the commit, or after the end.
	ErrTooLate = errors.New("too late to cancel")
)

// explain turns what SQLite and the system say into an error that tells what to do.
func (j *Journal) explain(op string, err error) error {
	if err == nil {
		return nil
	}
	var oe *migrate.OpError
	if errors.As(err, &oe) {
		return err
	}
	fix, kind := classify(err, j.dir)
	if kind != nil {
		err = fmt.Errorf("%s: %w: %w", j.dir, kind, err)
	} else {
		err = fmt.Errorf("%s: %w", j.dir, err)
	}
	return migrate.Fail(op, migrate.SideCoordinator, err, fix)
}

func classify(err error, dir string) (fix string, kind error) {
	if errors.Is(err, ErrNewer) {
		return "use the newer vmmigrate, or another state directory", nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "check the state directory's path", ErrAbsent
	}
	if errors.Is(err, fs.ErrPermission) {
		return "give this user the right to write " + dir, ErrReadOnly
	}
	var se *sqlite.Error
	if !errors.As(err, &se) {
		return "", nil
	}
	switch se.Code() & 0xff {
	case lib.SQLITE_CORRUPT, lib.SQLITE_NOTADB:
		return "move " + dir + "/journal.db away; both hosts still know their guests", ErrDamaged
	case lib.SQLITE_FULL:
		return "free some space in " + dir, ErrFull
	case lib.SQLITE_READONLY, lib.SQLITE_PERM:
		return "give this user the right to write " + dir, ErrReadOnly
	case lib.SQLITE_CANTOPEN:
		return "check that " + dir + " exists and that this user may write it", ErrReadOnly
	case lib.SQLITE_BUSY, lib.SQLITE_LOCKED:
		return "another process holds the journal for long; try again", nil
	}
	return "", nil
}
