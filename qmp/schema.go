package qmp

import (
	"context"
	"slices"
)

// Schema is what a QEMU says of its own commands and events. It does not change
// while QEMU lives: ask once and keep it. It is read-only and may be shared.
type Schema struct {
	entities map[string]schemaEntity
}

// schemaEntity is one entry of query-qmp-schema; which fields it has depends on
// its kind. Types are named by numbers that mean nothing elsewhere.
type schemaEntity struct {
	Name        string         `json:"name"`
	MetaType    string         `json:"meta-type"`
	ArgType     string         `json:"arg-type,omitempty"`
	AllowOOB    bool           `json:"allow-oob,omitempty"`
	ElementType string         `json:"element-type,omitempty"`
	Members     []schemaMember `json:"members,omitempty"`
	Variants    []struct {
		Type string `json:"type"`
	} `json:"variants,omitempty"`
}

// schemaMember is a member of an object, an enumeration or an alternate.
type schemaMember struct {
	Name string `json:"name,omitempty"`
	Type string `json:"type,omitempty"`
}

// QuerySchema asks for the schema, some 240 KB in QEMU 10.
func QuerySchema(ctx context.Context, x Executor) (*Schema, error) {
	list, err := query[[]schemaEntity](ctx, x, "query-qmp-schema", nil)
	if err != nil {
		return nil, err
	}
	s := &Schema{entities: make(map[string]schemaEntity, len(list))}
	for _, e := range list {
		s.entities[e.Name] = e
	}
	return s, nil
}

// HasCommand reports whether QEMU has the command. Whoever asks for more than one
// thing keeps a Schema instead.
func HasCommand(ctx context.Context, x Executor, name string) (bool, error) {
	s, err := QuerySchema(ctx, x)
	if err != nil {
		return false, err
	}
	return s.HasCommand(name), nil
}

// HasCommand reports whether QEMU has the command.
func (s *Schema) HasCommand(name string) bool { return s.entities[name].MetaType == "command" }

// HasEvent reports whether QEMU has the event.
func (s *Schema) HasEvent(name string) bool { return s.entities[name].MetaType == "event" }

// AllowsOOB reports whether the command may run out of band.
func (s *Schema) AllowsOOB(command string) bool {
	return s.HasCommand(command) && s.entities[command].AllowOOB
}

// HasArgument reports whether a command takes an argument, or an event carries a
// member, of that name. Members of arrays and objects are reached by naming each
// level: HasArgument("migrate", "channels", "addr", "transport").
func (s *Schema) HasArgument(command string, path ...string) bool {
	e, ok := s.entities[command]
	if !ok || (e.MetaType != "command" && e.MetaType != "event") {
		return false
	}
	_, ok = s.walk(e.ArgType, path, 0)
	return ok
}

// HasArgumentValue reports whether an argument is an enumeration that knows the
// value: HasArgumentValue("blockdev-mirror", "write-blocking", "copy-mode").
func (s *Schema) HasArgumentValue(command, value string, path ...string) bool {
	if !s.HasArgument(command, path...) {
		return false
	}
	t, _ := s.walk(s.entities[command].ArgType, path, 0)
	e := s.element(t)
	return e.MetaType == "enum" && slices.ContainsFunc(e.Members, func(m schemaMember) bool { return m.Name == value })
}

// maxSchemaDepth bounds how far types are followed; a schema that refers to
// itself without end is not QEMU's.
const maxSchemaDepth = 64

// element gives a type, or an array's element type.
func (s *Schema) element(t string) schemaEntity {
	e := s.entities[t]
	for range maxSchemaDepth {
		if e.MetaType != "array" {
			break
		}
		e = s.entities[e.ElementType]
	}
	return e
}

// walk follows member names from a type on and gives the last one's type.
func (s *Schema) walk(t string, path []string, depth int) (string, bool) {
	if len(path) == 0 || depth == maxSchemaDepth {
		return t, len(path) == 0
	}
	e := s.element(t)
	if e.MetaType != "object" {
		return "", false
	}
	for _, m := range e.Members {
		if m.Name == path[0] {
			return s.walk(m.Type, path[1:], depth+1)
		}
	}
	for _, v := range e.Variants {
		if found, ok := s.walk(v.Type, path, depth+1); ok {
			return found, true
		}
	}
	return "", false
}
