package sample

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// Bounds of what ReadCSV takes: a file from elsewhere must not take all memory.
const (
	// MaxColumns a line may have.
	MaxColumns = 1024
	// MaxLine is how many bytes a line may have.
	MaxLine = 1 << 20
	// MaxCells is how many values all columns may have together, missing ones included.
	MaxCells = 2 * MaxSamples
)

// CSVOptions say what ReadCSV shall not find out by itself. The zero value leaves all to it.
type CSVOptions struct {
	// Columns are the values wanted, by name (with or without the unit in brackets) or number from 1; none means all that hold
	// numbers.
	Columns []string
	// Time is the column with the time, by name or number; empty means the first that is called so, or else the first.
	Time string
	// Step of the series; 0 means the median difference between rows.
	Step time.Duration
	// Location of times that name no zone; nil means UTC.
	Location *time.Location
	// Negative lets values below 0 in. No metric of a guest has them, so that they are refused otherwise.
	Negative bool
}

// Table is what was read: series on one grid, and what had to be done to get them there.
type Table struct {
	Series []Series
	// Rows of the file; Unordered is those that came before an earlier one, Merged those that fell into a step that had one
	// already (its value is the mean), Absent the steps for which there was none.
	Rows, Unordered, Merged, Absent int
}

// LineError says which line of a file cannot be read.
type LineError struct {
	Line int
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap gives the cause.
func (e *LineError) Unwrap() error { return e.Err }

// ReadCSV reads lines of a time and values. It finds by itself which of comma, semicolon and tab separates them, whether the
// first line names the columns, how times are written (RFC 3339, 2006-01-02 15:04:05, or a number since 1970 in s, ms, µs or ns,
// told by its size and not by what the header claims), and the step. Rows may come in any order, be double, or be missing.
// A value that is empty, NaN, NA or null is missing. Empty lines and those that begin with # are skipped.
func ReadCSV(r io.Reader, o CSVOptions) (Table, error) {
	c := &csvReader{lines: bufio.NewScanner(r), o: o, most: MaxSamples}
	c.lines.Buffer(make([]byte, 64<<10), MaxLine)
	if o.Step < 0 {
		return Table{}, fmt.Errorf("a step of %s", o.Step)
	}
	if o.Location == nil {
		c.o.Location = time.UTC
	}
	if err := c.readAll(); err != nil {
		return Table{}, err
	}
	return c.grid()
}

// csvReader gathers rows: times as they are written, and the values of each column.
type csvReader struct {
	lines *bufio.Scanner
	o     CSVOptions
	line  int // that was read last
	sep   byte
	names []string // of all columns
	when  int      // the column of the time
	cols  []int    // those of values, which are
	vals  [][]float64
	times clock
	most  int    // rows
	held  []byte // a line that was looked at ahead of its turn
}

// next gives the next line with anything on it; nil at the end.
func (c *csvReader) next() ([]byte, error) {
	if c.held != nil {
		l := c.held
		c.held = nil
		return l, nil
	}
	for c.lines.Scan() {
		c.line++
		l := c.lines.Bytes()
		if c.line == 1 {
			l = bytes.TrimPrefix(l, []byte("\xef\xbb\xbf"))
		}
		l = bytes.TrimSuffix(l, []byte("\r"))
		if t := bytes.TrimSpace(l); len(t) > 0 && t[0] != '#' {
			return l, nil
		}
	}
	err := c.lines.Err()
	if errors.Is(err, bufio.ErrTooLong) {
		return nil, &LineError{c.line + 1, fmt.Errorf("longer than %d bytes", MaxLine)}
	}
	return nil, err
}

func (c *csvReader) readAll() error {
	if err := c.begin(); err != nil {
		return err
	}
	var fields []string
	for {
		l, err := c.next()
		if err != nil {
			return err
		}
		if l == nil {
			break
		}
		if fields, err = split(fields[:0], string(l), c.sep); err == nil {
			err = c.row(fields)
		}
		if err != nil {
			return &LineError{c.line, err}
		}
	}
	if c.times.len() == 0 {
		return ErrNoSamples
	}
	return nil
}

// begin looks at the first line, and takes it as the header if no time is on it.
func (c *csvReader) begin() error {
	l, err := c.next()
	if err != nil {
		return err
	}
	if l == nil {
		return ErrNoSamples
	}
	first := string(l)
	c.sep = separator(first)
	fields, err := split(nil, first, c.sep)
	if err != nil {
		return &LineError{c.line, err}
	}
	if len(fields) < 2 {
		return &LineError{c.line, errors.New("one column only: a time and a value are wanted, separated by comma, semicolon or tab")}
	}
	c.names = fields
	if c.when, err = c.timeColumn(); err != nil {
		return &LineError{c.line, err}
	}
	if _, err := parseTime(fields[c.when], c.o.Location); err == nil {
		c.names, c.held = numbered(len(fields)), []byte(first)
		if c.when, err = c.timeColumn(); err != nil {
			return &LineError{c.line, err}
		}
	}
	return c.choose()
}

func numbered(n int) []string {
	if n == 2 {
		return []string{"time", "value"}
	}
	names := make([]string, n)
	for i := range names {
		names[i] = strconv.Itoa(i + 1)
	}
	return names
}

// timeColumn finds where the time is.
func (c *csvReader) timeColumn() (int, error) {
	if c.o.Time != "" {
		return find(c.names, c.o.Time)
	}
	for i, n := range c.names {
		name, _ := splitUnit(n)
		switch strings.ToLower(name) {
		case "time", "timestamp", "date", "datetime", "ts", "epoch":
			return i, nil
		}
	}
	return 0, nil
}

// choose says which columns are read. Those that nobody named must begin with a number, which the first row tells.
func (c *csvReader) choose() error {
	for _, name := range c.o.Columns {
		i, err := find(c.names, name)
		if err != nil {
			return err
		}
		if i == c.when {
			return fmt.Errorf("column %q is the time", name)
		}
		c.cols = append(c.cols, i)
	}
	if len(c.o.Columns) == 0 {
		l, err := c.next()
		if err != nil {
			return err
		}
		if l == nil {
			return ErrNoSamples
		}
		c.held = bytes.Clone(l)
		fields, err := split(nil, string(l), c.sep)
		if err != nil {
			return &LineError{c.line, err}
		}
		for i, f := range fields {
			if _, err := c.value(f); i != c.when && i < len(c.names) && !errors.Is(err, errNoNumber) {
				c.cols = append(c.cols, i)
			}
		}
		if len(c.cols) == 0 {
			return &LineError{c.line, errors.New("no column with numbers beside the time")}
		}
	}
	c.vals = make([][]float64, len(c.cols))
	return nil
}

// find gives a column by its name, its name without the unit, or its number.
func find(names []string, want string) (int, error) {
	want = strings.TrimSpace(want)
	match := func(same func(string) bool) (at, n int) {
		for i, name := range names {
			if same(name) {
				at = i
				n++
			}
		}
		return at, n
	}
	if i, n := match(func(s string) bool { return strings.EqualFold(s, want) }); n == 1 {
		return i, nil
	}
	i, n := match(func(s string) bool { bare, _ := splitUnit(s); return strings.EqualFold(bare, want) })
	switch {
	case n == 1:
		return i, nil
	case n > 1:
		return 0, fmt.Errorf("%d columns are called %q; name one with its unit: %s", n, want, list(names))
	}
	if i, err := strconv.Atoi(want); err == nil && i >= 1 && i <= len(names) {
		return i - 1, nil
	}
	return 0, fmt.Errorf("no column %q; there are: %s", want, list(names))
}

// list names columns in a line that can be read.
func list(names []string) string {
	const most = 20
	s := strings.Join(names[:min(most, len(names))], ", ")
	if len(names) > most {
		s += fmt.Sprintf(" and %d more", len(names)-most)
	}
	return s
}

// splitUnit takes "rate [B/s]" apart.
func splitUnit(s string) (name, unit string) {
	if i := strings.LastIndexByte(s, '['); i > 0 && strings.HasSuffix(s, "]") && i < len(s)-2 {
		name, unit = strings.TrimSpace(s[:i]), strings.TrimSpace(s[i+1:len(s)-1])
		if name != "" && unit != "" {
			return name, unit
		}
	}
	return s, ""
}

// row takes a line's fields in.
func (c *csvReader) row(fields []string) error {
	if len(fields) != len(c.names) {
		return fmt.Errorf("%d columns, where the first line has %d", len(fields), len(c.names))
	}
	if c.times.len() >= c.most || c.times.len()*len(c.cols) >= MaxCells {
		return fmt.Errorf("too many rows: %w, or more than %d values", ErrTooLong, MaxCells)
	}
	t, err := parseTime(fields[c.when], c.o.Location)
	if err != nil {
		return err
	}
	if err := c.times.add(t); err != nil {
		return err
	}
	for i, col := range c.cols {
		v, err := c.value(fields[col])
		if err != nil {
			return fmt.Errorf("column %s: %w", c.names[col], err)
		}
		c.vals[i] = append(c.vals[i], v)
	}
	return nil
}

var errNoNumber = errors.New("is no number")

// value reads a value; NaN is a missing one.
func (c *csvReader) value(s string) (float64, error) {
	switch s {
	case "", "NaN", "nan", "NAN", "NA", "N/A", "null", "NULL", "-":
		return math.NaN(), nil
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil && c.sep != ',' && strings.Count(s, ",") == 1 {
		v, err = strconv.ParseFloat(strings.Replace(s, ",", ".", 1), 64)
	}
	switch {
	case err != nil && !errors.Is(err, strconv.ErrRange):
		return 0, fmt.Errorf("%s %w", quoted(s), errNoNumber)
	case math.IsNaN(v):
		return v, nil
	case err != nil, math.IsInf(v, 0):
		return 0, fmt.Errorf("%s is beyond what can be counted", quoted(s))
	case v < 0 && !c.o.Negative:
		return 0, fmt.Errorf("%s is negative", quoted(s))
	}
	return v, nil
}

// quoted shows what a file has, and not all of it if it is long.
func quoted(s string) string {
	const most = 40
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "…"
	}
	return strconv.QuoteToASCII(s)
}
