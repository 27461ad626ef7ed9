package qmp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// decodeRequired decodes raw into out and makes sure that nothing in out is a
// zero that QEMU never sent: every field must be present, unless its type is a
// pointer or its tag says omitempty.
func decodeRequired(command string, raw json.RawMessage, out any) error {
	if err := decodeInto(command, raw, out); err != nil {
		return err
	}
	if at := missing(raw, reflect.TypeOf(out).Elem()); at != "" {
		return fmt.Errorf("qmp: %s: decoding the reply: %q: %w", command, at, errMissing)
	}
	return nil
}

// missing gives the path of the first required field of t that raw lacks, or "".
// What raw holds has already been decoded as t.
func missing(raw json.RawMessage, t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if bytes.Equal(raw, []byte("null")) || reflect.PointerTo(t).Implements(unmarshalerType) {
		return ""
	}
	switch t.Kind() {
	case reflect.Struct:
		return missingInObject(raw, t)
	case reflect.Slice:
		return missingInArray(raw, t.Elem())
	}
	return ""
}

// unmarshalerType marks the types that decode themselves.
var unmarshalerType = reflect.TypeFor[json.Unmarshaler]()

// missingInObject looks through the fields of a struct.
func missingInObject(raw json.RawMessage, t reflect.Type) string {
	var have map[string]json.RawMessage
	if json.Unmarshal(raw, &have) != nil {
		return ""
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			if at := missingInObject(raw, f.Type); at != "" {
				return at
			}
			continue
		}
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		value, ok := have[name]
		if !ok {
			if f.Type.Kind() == reflect.Pointer || strings.Contains(opts, "omitempty") {
				continue
			}
			return name
		}
		if at := missing(value, f.Type); at != "" {
			return name + "." + at
		}
	}
	return ""
}

// missingInArray looks through the elements of an array of elem.
func missingInArray(raw json.RawMessage, elem reflect.Type) string {
	switch elem.Kind() {
	case reflect.Struct, reflect.Pointer, reflect.Slice:
	default:
		return ""
	}
	var items []json.RawMessage
	if json.Unmarshal(raw, &items) != nil {
		return ""
	}
	for i, item := range items {
		if at := missing(item, elem); at != "" {
			return strconv.Itoa(i) + "." + at
		}
	}
	return ""
}
