package migrate_test

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// conforms checks a value against the part of JSON schema that our schemas use. A keyword that it does not know is an
// error, so that no rule is silently not checked.
func conforms(schema map[string]any, v any, at string) error {
	for k, rule := range schema {
		if err := keyword(schema, k, rule, v, at); err != nil {
			return err
		}
	}
	return nil
}

func keyword(schema map[string]any, k string, rule, v any, at string) error {
	switch k {
	case "$schema", "$id", "title", "description", "format", "properties":
		return nil
	case "type":
		return ofType(rule.(string), v, at)
	case "const":
		if v != rule {
			return fmt.Errorf("%s: %v is not %v", at, v, rule)
		}
	case "enum":
		if !slices.Contains(rule.([]any), v) {
			return fmt.Errorf("%s: %v is none of %v", at, v, rule)
		}
	case "minimum":
		if n, ok := v.(float64); ok && n < rule.(float64) {
			return fmt.Errorf("%s: %v is below %v", at, n, rule)
		}
	case "maximum":
		if n, ok := v.(float64); ok && n > rule.(float64) {
			return fmt.Errorf("%s: %v is above %v", at, n, rule)
		}
	case "required":
		for _, name := range rule.([]any) {
			if _, ok := v.(map[string]any)[name.(string)]; !ok {
				return fmt.Errorf("%s: %v is missing", at, name)
			}
		}
	case "items":
		for i, x := range v.([]any) {
			if err := conforms(rule.(map[string]any), x, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
	case "additionalProperties":
		return members(schema, rule, v.(map[string]any), at)
	default:
		return fmt.Errorf("%s: the schema's keyword %q is not checked", at, k)
	}
	return nil
}

func members(schema map[string]any, rest any, v map[string]any, at string) error {
	known := schema["properties"].(map[string]any)
	for name, x := range v {
		rule, ok := known[name].(map[string]any)
		if !ok {
			if rule, ok = rest.(map[string]any); !ok {
				return fmt.Errorf("%s: unknown field %q", at, name)
			}
		}
		if err := conforms(rule, x, at+"."+name); err != nil {
			return err
		}
	}
	return nil
}

func ofType(want string, v any, at string) error {
	got := map[reflect.Kind]string{reflect.Map: "object", reflect.Slice: "array", reflect.String: "string", reflect.Float64: "number", reflect.Bool: "boolean"}[reflect.ValueOf(v).Kind()]
	if n, ok := v.(float64); ok && want == "integer" && n == math.Trunc(n) {
		return nil
	}
	if got != want {
		return fmt.Errorf("%s: %v is of type %s, want %s", at, v, got, want)
	}
	return nil
}

func validate(t *testing.T, schema string, v any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := valid(t, schema, string(b)); err != nil {
		t.Errorf("%v in %s", err, b)
	}
}

// parsed keeps schemas that were read already: there are two, and thousands of lines to check.
var parsed sync.Map

func parse(t *testing.T, schema string) map[string]any {
	t.Helper()
	if s, ok := parsed.Load(schema); ok {
		return s.(map[string]any)
	}
	var s map[string]any
	if err := json.Unmarshal([]byte(schema), &s); err != nil {
		t.Fatal(err)
	}
	parsed.Store(schema, s)
	return s
}

func valid(t *testing.T, schema, text string) error {
	t.Helper()
	s := parse(t, schema)
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return conforms(s, v, "")
}

// TestSchemaRefuses: the check itself can fail.
func TestSchemaRefuses(t *testing.T) {
	good := `{"schema":"vmmigrate.report/v1","migration":"m","domain":"d","engine":"native","strategy":"hybrid","outcome":"completed","owner":"destination"}`
	if err := valid(t, migrate.ReportJSONSchema(), good); err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{`"domain":"d",`, ``},
		{`"owner":"destination"`, `"owner":"me"`},
		{`"owner":"destination"`, `"owner":"destination","more":1`},
		{`"owner":"destination"`, `"owner":"destination","total_ms":-1`},
		{`"owner":"destination"`, `"owner":"destination","total_ms":"1"`},
		{`"owner":"destination"`, `"owner":"destination","ram":{"rounds":[{"pages":1,"bytes":2}]}`},
		{`report/v1`, `report/v2`},
	} {
		if valid(t, migrate.ReportJSONSchema(), strings.Replace(good, change[0], change[1], 1)) == nil {
			t.Errorf("accepted with %s", change[1])
		}
	}
	line := `{"migration":"m","time":"2026-11-22T01:02:03Z","phase":"copying","owner":"source","percent":600}`
	if valid(t, migrate.ProgressJSONSchema(), line) == nil {
		t.Error("accepted 600 percent")
	}
}

// TestSchemaKnowsEveryField: what the types can write and what the schemas allow is the same.
func TestSchemaKnowsEveryField(t *testing.T) {
	for _, c := range []struct {
		schema string
		typ    reflect.Type
	}{{migrate.ReportJSONSchema(), reflect.TypeFor[migrate.Report]()}, {migrate.ProgressJSONSchema(), reflect.TypeFor[migrate.Progress]()}} {
		var s map[string]any
		if err := json.Unmarshal([]byte(c.schema), &s); err != nil {
			t.Fatal(err)
		}
		sameFields(t, s, c.typ, c.typ.Name())
	}
}

func sameFields(t *testing.T, schema map[string]any, typ reflect.Type, at string) {
	t.Helper()
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		if typ.Kind() == reflect.Slice {
			schema = schema["items"].(map[string]any)
		}
		typ = typ.Elem()
	}
	props, ok := schema["properties"].(map[string]any)
	if !ok || typ.Kind() != reflect.Struct {
		return
	}
	seen := map[string]bool{}
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		seen[name] = true
		sub, ok := props[name].(map[string]any)
		if !ok {
			t.Errorf("%s.%s is not in the schema", at, name)
			continue
		}
		sameFields(t, sub, typ.Field(i).Type, at+"."+name)
	}
	for name := range props {
		if !seen[name] {
			t.Errorf("%s.%s of the schema does not exist", at, name)
		}
	}
}
