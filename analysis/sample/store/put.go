package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

// Guest is who samples are of. A trace from elsewhere has a UUID made up from its name; see Imported.
type Guest struct {
	UUID string `json:"uuid"`
	Name string `json:"name"`
}

// Imported gives a trace from a file a guest to belong to.
func Imported(name string) Guest { return Guest{UUID: "import/" + name, Name: name} }

// Batch is new samples of one guest.
type Batch struct {
	Guest Guest
	// Metrics are series as they are named by their metric. A value that is missing leaves what is kept as it is.
	Metrics []sample.Series
	// Windows is the dirty metric over several windows.
	Windows sample.Windows
}

// Put keeps samples, all of them or none where they fit one transaction (a quarter of a million). They may come in any order and
// replace what was kept of their steps. A sample belongs to the step in which its time lies.
func (s *Store) Put(ctx context.Context, batches ...Batch) error {
	p := &putter{s: s}
	defer p.rollback()
	for _, b := range batches {
		if b.Guest.UUID == "" {
			return s.explain("keep", errors.New("a guest without a UUID"))
		}
		for _, ser := range b.Metrics {
			if err := p.series(ctx, b.Guest, ser.Name, false, ser); err != nil {
				return s.explain("keep", fmt.Errorf("%s of %s: %w", ser.Name, b.Guest.Name, err))
			}
		}
		for _, ser := range b.Windows {
			if err := p.series(ctx, b.Guest, string(sample.MetricDirty), true, ser); err != nil {
				return s.explain("keep", fmt.Errorf("windows of %s of %s: %w", ser.Step, b.Guest.Name, err))
			}
		}
	}
	if err := p.commit(); err != nil {
		return s.explain("keep", err)
	}
	return s.explain("make room for", s.shrink(ctx))
}

// maxPending is how many blocks one transaction may write: others wait for it, and it has to fit the log.
const maxPending = 1024

// putter writes in transactions that are not too long.
type putter struct {
	s       *Store
	tx      *sql.Tx
	pending int
}

func (p *putter) begin(ctx context.Context) (err error) {
	if p.pending >= maxPending {
		if err := p.commit(); err != nil {
			return err
		}
	}
	if p.tx == nil {
		p.tx, err = p.s.db.BeginTx(ctx, nil)
	}
	return err
}

func (p *putter) commit() error {
	tx := p.tx
	if p.tx, p.pending = nil, 0; tx == nil {
		return nil
	}
	return tx.Commit()
}

func (p *putter) rollback() {
	if p.tx != nil {
		_ = p.tx.Rollback() // what went wrong is told already
	}
}

// kept is a series as the file has it.
type kept struct {
	id      int64
	metric  string
	windows bool
	unit    string
	step    time.Duration
	origin  int64
	newest  int64
}

// slot is in which step of level 0 a time lies.
func (k kept) slot(ns int64) int64 { return floorDiv(ns-k.origin, int64(k.step)) }

func (k kept) at(slot int64) time.Time { return time.Unix(0, k.origin+slot*int64(k.step)).UTC() }

// series keeps one series.
func (p *putter) series(ctx context.Context, g Guest, metric string, windows bool, ser sample.Series) error {
	switch y := ser.Start.UTC().Year(); {
	case ser.Len() == 0:
		return nil
	case metric == "":
		return errors.New("it has no name")
	case ser.Step < time.Millisecond || ser.Step > 366*24*time.Hour:
		return fmt.Errorf("a step of %s", ser.Step)
	case ser.Len() > sample.MaxSamples:
		return sample.ErrTooLong
	case y < 1900 || y > 2150 || ser.Span() < 0 || ser.Span() > 100*366*24*time.Hour:
		return fmt.Errorf("it begins in %d and goes on for %s", y, ser.Span())
	}
	for i, v := range ser.Values {
		if math.IsInf(v, 0) {
			return fmt.Errorf("an infinite value at %s", ser.At(i).Format(time.RFC3339))
		}
	}
	if err := p.begin(ctx); err != nil {
		return err
	}
	k, err := p.declare(ctx, g, metric, windows, ser)
	if err != nil {
		return err
	}
	first := k.slot(ser.Start.UnixNano())
	for lo := 0; lo < ser.Len(); {
		n := floorDiv(first+int64(lo), slots)
		hi := min(ser.Len(), int((n+1)*slots-first))
		if err := p.begin(ctx); err != nil {
			return err
		}
		if err := p.block(ctx, k.id, n, first+int64(lo)-n*slots, ser.Values[lo:hi]); err != nil {
			return err
		}
		lo = hi
	}
	last := first + int64(ser.Len()) - 1
	_, err = p.tx.ExecContext(ctx, "UPDATE series SET newest = max(newest, ?) WHERE id = ?", last, k.id)
	return err
}

// declare finds a guest's series, or adds them.
func (p *putter) declare(ctx context.Context, g Guest, metric string, windows bool, ser sample.Series) (kept, error) {
	if _, err := p.tx.ExecContext(ctx, "INSERT INTO guests (uuid, name) VALUES (?, ?) ON CONFLICT (uuid) DO UPDATE SET name = excluded.name WHERE name <> excluded.name",
		g.UUID, g.Name); err != nil {
		return kept{}, err
	}
	origin := ser.Start.UnixNano() % int64(ser.Step)
	if origin < 0 {
		origin += int64(ser.Step)
	}
	k := kept{metric: metric, windows: windows, step: ser.Step}
	if _, err := p.tx.ExecContext(ctx, "INSERT INTO series (guest, metric, windows, unit, step, origin, newest) "+
		"SELECT id, ?, ?, ?, ?, ?, ? FROM guests WHERE uuid = ? ON CONFLICT DO NOTHING",
		metric, windows, ser.Unit, int64(ser.Step), origin, int64(math.MinInt64), g.UUID); err != nil {
		return k, err
	}
	return k, p.tx.QueryRowContext(ctx, "SELECT s.id, s.unit, s.origin, s.newest FROM series s JOIN guests g ON g.id = s.guest "+
		"WHERE g.uuid = ? AND metric = ? AND windows = ? AND step = ?", g.UUID, metric, windows, int64(ser.Step)).Scan(&k.id, &k.unit, &k.origin, &k.newest)
}

// block writes values into one block of level 0, from slot at on.
func (p *putter) block(ctx context.Context, series, n, at int64, values []float64) error {
	b, err := load(ctx, p.tx, series, 0, n)
	if err != nil {
		return err
	}
	news := false
	for i, v := range values {
		if !math.IsNaN(v) {
			b[at+int64(i)], news = cell{v, v, v}, true
		}
	}
	if !news {
		return nil
	}
	p.pending++
	return save(ctx, p.tx, series, 0, n, b)
}

// load gives a block, an empty one if it is not there.
func load(ctx context.Context, q asker, series int64, level int, n int64) (*block, error) {
	var data []byte
	err := q.QueryRowContext(ctx, "SELECT data FROM blocks WHERE series = ? AND level = ? AND block = ?", series, level, n).Scan(&data)
	if errors.Is(err, sql.ErrNoRows) {
		return emptyBlock(), nil
	}
	if err != nil {
		return nil, err
	}
	return decode(level, data)
}

func save(ctx context.Context, q asker, series int64, level int, n int64, b *block) error {
	_, err := q.ExecContext(ctx, "INSERT INTO blocks (series, level, block, data) VALUES (?, ?, ?, ?) "+
		"ON CONFLICT (series, level, block) DO UPDATE SET data = excluded.data", series, level, n, b.encode(level))
	return err
}
