package qmptest

import (
	"encoding/json"
	"fmt"
	"os"
)

// Step is one thing that the scripted server does.
type Step interface {
	// String names the step in failures.
	String() string
	play(p *player) error
}

// stepFunc is a step that is a function with a name.
type stepFunc struct {
	name string
	fn   func(p *player) error
}

func (s stepFunc) String() string       { return s.name }
func (s stepFunc) play(p *player) error { return s.fn(p) }

// Greeting sends a greeting of QEMU 10.0.2 that offers the given capabilities.
func Greeting(capabilities ...string) Step {
	if capabilities == nil {
		capabilities = []string{}
	}
	return stepFunc{"Greeting", func(p *player) error {
		return p.send(map[string]any{"QMP": map[string]any{
			"version": map[string]any{
				"qemu":    map[string]any{"major": 10, "minor": 0, "micro": 2},
				"package": "qmptest",
			},
			"capabilities": capabilities,
		}})
	}}
}

// Negotiate sends a greeting and accepts qmp_capabilities, whatever it enables.
func Negotiate(capabilities ...string) Step {
	return stepFunc{"Negotiate", func(p *player) error {
		if err := Greeting(capabilities...).play(p); err != nil {
			return err
		}
		return Expect("qmp_capabilities").Return(nil).play(p)
	}}
}

// Event sends an event with the server's present time. Data may be nil.
func Event(name string, data any) Step { return EventAt(name, data, -1, -1) }

// EventAt sends an event that happened at the given time. Negative seconds mean
// the present time.
func EventAt(name string, data any, seconds, microseconds int64) Step {
	return stepFunc{"Event " + name, func(p *player) error {
		return p.send(eventMessage(name, data, seconds, microseconds))
	}}
}

// Raw sends text as it is, with nothing added. A client that closes while it is
// being sent is no failure, as refusing it may be the point.
func Raw(text string) Step {
	return stepFunc{fmt.Sprintf("Raw %.40q", text), func(p *player) error {
		return ignoreEnd(p.sendRaw([]byte(text)))
	}}
}

// Close closes the connection. It should be the last step.
func Close() Step {
	return stepFunc{"Close", func(p *player) error { return p.conn.Close() }}
}

// Hang reads and ignores whatever comes until the client closes.
func Hang() Step {
	return stepFunc{"Hang", func(p *player) error { return p.drain() }}
}

// Do calls fn in the goroutine that plays the connection: to wait for the test
// or to tell it how far the script has come.
func Do(fn func()) Step {
	return stepFunc{"Do", func(*player) error { fn(); return nil }}
}

// Reply answers a command that an Expectation has put aside under label.
func Reply(label string, value any) Step {
	return stepFunc{"Reply " + label, func(p *player) error {
		c, err := p.recall(label)
		if err != nil {
			return err
		}
		return p.reply(c, value)
	}}
}

// ReplyError is Reply with an error.
func ReplyError(label, class, desc string) Step {
	return stepFunc{"ReplyError " + label, func(p *player) error {
		c, err := p.recall(label)
		if err != nil {
			return err
		}
		return p.replyError(c, class, desc)
	}}
}

// Command is a command as the client sent it.
type Command struct {
	// Name is the command's name.
	Name string
	// OOB tells whether it was to be executed out of band.
	OOB bool
	// Args are its arguments as sent, nil for none.
	Args json.RawMessage
	// ID is its id as sent, nil for none.
	ID json.RawMessage
}

// Failure is an error that a handler gives as its answer.
type Failure struct{ Class, Desc string }

// Answer is a handler's answer with an event on either side of it; an empty name
// leaves that event out.
type Answer struct {
	Before string // name of an event to send first
	Value  any    // what the command returns, or a Failure
	After  string // name of an event to send last
}

// Serve answers every command with handler until the client closes. A handler
// that returns a Failure answers with an error; an Answer brings events along.
func Serve(handler func(Command) any) Step {
	return stepFunc{"Serve", func(p *player) error {
		for {
			c, err := p.receive()
			if err != nil {
				return ignoreEnd(err)
			}
			if err := p.answer(c, handler(c)); err != nil {
				return ignoreEnd(err)
			}
		}
	}}
}

// Expectation is a step that waits for one command. Its methods add to it and
// return it, so that they can be chained.
type Expectation struct {
	name  string
	args  json.RawMessage // nil: any arguments
	oob   *bool           // nil: either way
	file  func(*os.File)  // nil: descriptors are not looked at
	check func(Command) error
	then  []func(p *player, c Command) error
	err   error // what was wrong with building it
}

// Expect waits for the named command, with any arguments, and does not answer it
// unless told to.
func Expect(command string) *Expectation { return &Expectation{name: command} }

// Args demands arguments that are equal to v as JSON.
func (e *Expectation) Args(v any) *Expectation {
	b, err := json.Marshal(v)
	if err != nil {
		e.err = err
	}
	e.args = b
	return e
}

// OOB demands that the command be executed out of band, or not.
func (e *Expectation) OOB(want bool) *Expectation {
	e.oob = &want
	return e
}

// Check demands that fn returns nil for the command.
func (e *Expectation) Check(fn func(Command) error) *Expectation {
	e.check = fn
	return e
}

// File demands that a descriptor came with the command, and hands it to fn, which
// owns it. It needs Listen.
func (e *Expectation) File(fn func(*os.File)) *Expectation {
	e.file = fn
	return e
}

// Return answers with v; nil stands for the empty object, as QEMU sends it.
func (e *Expectation) Return(v any) *Expectation {
	return e.do(func(p *player, c Command) error { return p.reply(c, v) })
}

// Fail answers with an error.
func (e *Expectation) Fail(class, desc string) *Expectation {
	return e.do(func(p *player, c Command) error { return p.replyError(c, class, desc) })
}

// Event sends an event; before the answer if it is called before Return.
func (e *Expectation) Event(name string, data any) *Expectation {
	return e.do(func(p *player, _ Command) error { return p.send(eventMessage(name, data, -1, -1)) })
}

// As puts the command aside under label, for Reply or ReplyError to answer later.
func (e *Expectation) As(label string) *Expectation {
	return e.do(func(p *player, c Command) error {
		p.aside[label] = c
		return nil
	})
}

// do adds something to do once the command has come.
func (e *Expectation) do(fn func(p *player, c Command) error) *Expectation {
	e.then = append(e.then, fn)
	return e
}

// String names the expectation in failures.
func (e *Expectation) String() string {
	s := "Expect " + e.name
	if e.args != nil {
		s += " " + string(e.args)
	}
	return s
}

func (e *Expectation) play(p *player) error {
	if e.err != nil {
		return e.err
	}
	c, err := p.receive()
	if err != nil {
		return fmt.Errorf("no command came: %w", err)
	}
	if err := e.match(p, c); err != nil {
		return err
	}
	for _, fn := range e.then {
		if err := fn(p, c); err != nil {
			return err
		}
	}
	return nil
}

// match says what is wrong with c, if anything.
func (e *Expectation) match(p *player, c Command) error {
	if c.Name != e.name {
		return fmt.Errorf("got command %s", c)
	}
	if e.args != nil && !sameJSON(e.args, c.Args) {
		return fmt.Errorf("arguments differ:\n  want %s\n  got  %s", e.args, c.Args)
	}
	if e.oob != nil && *e.oob != c.OOB {
		return fmt.Errorf("out of band: want %t, got %t", *e.oob, c.OOB)
	}
	if e.check != nil {
		if err := e.check(c); err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
	}
	if e.file == nil {
		return nil
	}
	f, err := p.takeFile()
	if err != nil {
		return err
	}
	e.file(f)
	return nil
}
