package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
	"github.com/vmmigrate/vmmigrate/analysis/sample/store"
	"github.com/vmmigrate/vmmigrate/migrate"
)

// importSeries reads a CSV file into the store under a name. What was there under it is replaced.
func importSeries(ctx context.Context, g *globals, out io.Writer, file, name string) (err error) {
	in := g.stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return migrate.Fail("import series", "", err, "")
		}
		defer f.Close()
		in = f
	}
	t, err := sample.ReadCSV(in, sample.CSVOptions{})
	if err != nil {
		return migrate.Fail("import "+file, "", err, "")
	}
	distinct(t.Series)
	path, err := samplesPath(g)
	if err != nil {
		return err
	}
	s, err := store.Open(ctx, path, store.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	guest := store.Imported(name)
	if err := s.Remove(ctx, guest.UUID); err != nil && !errors.Is(err, store.ErrNoGuest) {
		return err
	}
	if err := s.Put(ctx, store.Batch{Guest: guest, Metrics: t.Series}); err != nil {
		return err
	}
	first := t.Series[0]
	fmt.Fprintf(out, "%s: %d series of %d steps of %s from %s; %d rows, %d out of order, %d merged, %d steps missing\n", name, len(t.Series), first.Len(), first.Step,
		first.Start.Format(time.RFC3339), t.Rows, t.Unordered, t.Merged, t.Absent)
	return nil
}

// distinct adds the unit, or a number, to names that several columns have.
func distinct(list []sample.Series) {
	for _, name := range []func(sample.Series, int) string{
		func(s sample.Series, _ int) string {
			if s.Unit == "" {
				return s.Name
			}
			return s.Name + " [" + s.Unit + "]"
		},
		func(s sample.Series, i int) string { return fmt.Sprintf("%s #%d", s.Name, i+1) },
	} {
		count := map[string]int{}
		for _, s := range list {
			count[s.Name]++
		}
		for i, s := range list {
			if count[s.Name] > 1 {
				list[i].Name = name(s, i)
				if list[i].Name != s.Name {
					list[i].Unit = "" // it is in the name
				}
			}
		}
	}
}

// exportSeries writes what is kept of a guest as CSV, all its series in one step: the finest in which all of them are there.
func exportSeries(ctx context.Context, g *globals, out io.Writer, file, guest string) error {
	path, err := samplesPath(g)
	if err != nil {
		return err
	}
	s, err := store.OpenReadOnly(ctx, path)
	if err != nil {
		return migrate.Fail("export the samples of "+guest, "", err, "vmmigrate watch "+guest+" --daemon records them")
	}
	defer s.Close()
	series, err := inOneStep(ctx, s, guest)
	if err != nil {
		return migrate.Fail("export the samples of "+guest, "", err, "")
	}
	if file == "-" {
		return sample.WriteCSV(out, series...)
	}
	f, err := os.Create(file)
	if err != nil {
		return migrate.Fail("export the samples of "+guest, "", err, "")
	}
	return errors.Join(sample.WriteCSV(f, series...), f.Close())
}

// inOneStep reads all series of a guest in one step.
func inOneStep(ctx context.Context, s *store.Store, guest string) ([]sample.Series, error) {
	k, err := s.Find(ctx, guest)
	if err != nil {
		return nil, err
	}
	var metrics []sample.Metric
	for _, m := range k.Series {
		if !m.Windows && (len(metrics) == 0 || metrics[len(metrics)-1] != m.Metric) {
			metrics = append(metrics, m.Metric)
		}
	}
	var q store.Query
	for range 2 { // the second time all come in the longest step of the first
		var out []sample.Series
		longest, mixed := time.Duration(0), false
		for _, m := range metrics {
			one, err := s.Series(ctx, k.UUID, m, q)
			if err != nil {
				return nil, err
			}
			if one.Known() == 0 {
				continue
			}
			mixed = mixed || longest != 0 && one.Step != longest
			longest = max(longest, one.Step)
			out = append(out, one)
		}
		if !mixed {
			return out, nil
		}
		q.Step = longest
	}
	return nil, errors.New("its series are of steps that do not fit together")
}
