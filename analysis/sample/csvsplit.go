package sample

import (
	"errors"
	"fmt"
	"strings"
)

// separator finds what separates the fields of a line. A semicolon counts before a tab, which may come after it for looks, and
// both before a comma, which may be that of a number.
func separator(line string) byte {
	for _, sep := range []byte{';', '\t', ','} {
		inQuotes := false
		for i := range len(line) {
			switch line[i] {
			case '"':
				inQuotes = !inQuotes
			case sep:
				if !inQuotes {
					return sep
				}
			}
		}
	}
	return ','
}

// split appends a line's fields, without the blanks around them and the quotes.
func split(fields []string, line string, sep byte) ([]string, error) {
	for {
		if len(fields) >= MaxColumns {
			return nil, fmt.Errorf("more than %d columns", MaxColumns)
		}
		if trimmed := strings.TrimLeft(line, " "); strings.HasPrefix(trimmed, `"`) {
			f, rest, err := unquote(trimmed[1:], sep)
			if err != nil {
				return nil, err
			}
			fields = append(fields, f)
			if rest == nil {
				return fields, nil
			}
			line = *rest
			continue
		}
		i := strings.IndexByte(line, sep)
		if i < 0 {
			return append(fields, strings.TrimSpace(line)), nil
		}
		fields = append(fields, strings.TrimSpace(line[:i]))
		line = line[i+1:]
	}
}

// unquote reads a quoted field from behind its first quote. rest is nil at the end of the line.
func unquote(s string, sep byte) (field string, rest *string, err error) {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '"')
		if i < 0 {
			return "", nil, errors.New("a quote is not closed on its line")
		}
		b.WriteString(s[:i])
		if s = s[i+1:]; !strings.HasPrefix(s, `"`) {
			break
		}
		b.WriteByte('"')
		s = s[1:]
	}
	field = strings.TrimSpace(b.String())
	s = strings.TrimLeft(s, " ")
	switch {
	case s == "":
		return field, nil, nil
	case s[0] == sep:
		s = s[1:]
		return field, &s, nil
	}
	return "", nil, errors.New("something comes after a closing quote")
}
