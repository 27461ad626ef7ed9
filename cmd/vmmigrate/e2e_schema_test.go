package main

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// conform fails unless a text is JSON that the schema allows.
func conform(t *testing.T, schema, text string) {
	t.Helper()
	if err := conforms(schema, text); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
}

func conforms(schema, text string) error {
	var s map[string]any
	if err := json.Unmarshal([]byte(schema), &s); err != nil {
		return fmt.Errorf("the schema: %w", err)
	}
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return err
	}
	return node(s).check("$", v)
}

// node is a schema, as far as ours go: a rule it does not know is an error, so that none goes unchecked.
type node map[string]any

func (n node) check(at string, v any) error {
	for rule := range n {
		if !slices.Contains([]string{"$schema", "$id", "title", "description", "format", "type", "const", "enum", "minimum",
			"maximum", "required", "properties", "items", "additionalProperties"}, rule) {
			return fmt.Errorf("%s: the schema's rule %q is not checked", at, rule)
		}
	}
	if want, ok := n["const"]; ok && v != want {
		return fmt.Errorf("%s is %v, want %v", at, v, want)
	}
	if words, ok := n["enum"].([]any); ok && !slices.Contains(words, v) {
		return fmt.Errorf("%s is %v, none of %v", at, v, words)
	}
	switch v := v.(type) {
	case map[string]any:
		return n.object(at, v)
	case []any:
		return n.array(at, v)
	case float64:
		return n.number(at, v)
	case string:
		return n.is(at, "string")
	case bool:
		return n.is(at, "boolean")
	}
	return fmt.Errorf("%s is null", at)
}

func (n node) is(at string, kinds ...string) error {
	if want, ok := n["type"].(string); ok && !slices.Contains(kinds, want) {
		return fmt.Errorf("%s is a %s, want %s", at, kinds[0], want)
	}
	return nil
}

func (n node) number(at string, v float64) error {
	kinds := []string{"number"}
	if v == math.Trunc(v) {
		kinds = append(kinds, "integer")
	}
	if low, ok := n["minimum"].(float64); ok && v < low {
		return fmt.Errorf("%s is %v, below %v", at, v, low)
	}
	if high, ok := n["maximum"].(float64); ok && v > high {
		return fmt.Errorf("%s is %v, above %v", at, v, high)
	}
	return n.is(at, kinds...)
}

func (n node) array(at string, v []any) error {
	if items, ok := n["items"].(map[string]any); ok {
		for i, x := range v {
			if err := node(items).check(fmt.Sprintf("%s[%d]", at, i), x); err != nil {
				return err
			}
		}
	}
	return n.is(at, "array")
}

func (n node) object(at string, v map[string]any) error {
	required, _ := n["required"].([]any)
	for _, name := range required {
		if _, ok := v[name.(string)]; !ok {
			return fmt.Errorf("%s.%s is missing", at, name)
		}
	}
	known, _ := n["properties"].(map[string]any)
	for name, x := range v {
		rule, ok := known[name].(map[string]any)
		if !ok {
			rule, ok = n["additionalProperties"].(map[string]any)
		}
		if !ok && n["additionalProperties"] == false {
			return fmt.Errorf("%s.%s is not in the schema", at, name)
		}
		if err := node(rule).check(at+"."+name, x); err != nil {
			return err
		}
	}
	return n.is(at, "object")
}

// The check has to be able to fail.
func TestSchemaCheck(t *testing.T) {
	const good = `{"migration":"m-1","time":"2026-01-02T03:04:05Z","phase":"copying","owner":"source","percent":12.5}`
	if err := conforms(migrate.ProgressJSONSchema(), good); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		`{}`, `[]`, `null`, `7`,
		`{"migration":"m-1","time":"2026-01-02T03:04:05Z","phase":"copying","owner":"source","percent":101}`,
		`{"migration":"m-1","time":"2026-01-02T03:04:05Z","phase":"copying","owner":"source","percent":-1}`,
		`{"migration":"m-1","time":"2026-01-02T03:04:05Z","phase":"resting","owner":"source","percent":1}`,
		`{"migration":"m-1","time":"2026-01-02T03:04:05Z","phase":"copying","owner":"nobody","percent":1}`,
		`{"migration":"m-1","time":"2026-01-02T03:04:05Z","phase":"copying","owner":"source","percent":"1"}`,
		`{"migration":7,"time":"2026-01-02T03:04:05Z","phase":"copying","owner":"source","percent":1}`,
		`{"migration":"m-1","time":"2026-01-02T03:04:05Z","phase":"copying","owner":"source","percent":1,"colour":"red"}`,
		`{"migration":"m-1","time":"2026-01-02T03:04:05Z","phase":"copying","owner":"source","percent":1,"round":1.5}`,
		`{"migration":"m-1","time":"2026-01-02T03:04:05Z","phase":"copying","owner":"source","percent":1,"eta_ms":{"high":1}}`,
	} {
		if conforms(migrate.ProgressJSONSchema(), bad) == nil {
			t.Errorf("accepted: %s", bad)
		}
	}
}
