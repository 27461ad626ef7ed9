package qmptest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"syscall"
	"time"
)

const (
	// keepLines is how much of the conversation a failure shows.
	keepLines = 12
	// keepText is how much of one message a failure shows.
	keepText = 200
)

// player plays one script on one connection.
type player struct {
	conn  net.Conn
	dec   *json.Decoder
	files *fileReader // nil where descriptors cannot come
	aside map[string]Command
	said  []string // the end of the conversation
}

// newPlayer reads commands from conn, with descriptors if it is a unix socket.
func newPlayer(conn net.Conn) *player {
	p := &player{conn: conn, aside: make(map[string]Command)}
	if u, ok := conn.(*net.UnixConn); ok {
		p.files = &fileReader{conn: u}
		p.dec = json.NewDecoder(p.files)
		return p
	}
	p.dec = json.NewDecoder(conn)
	return p
}

// run plays all steps and says what went wrong.
func (p *player) run(steps []Step) error {
	defer p.closeFiles()
	for i, s := range steps {
		if err := s.play(p); err != nil {
			return fmt.Errorf("step %d of %d (%s): %w%s", i+1, len(steps), s, err, p.transcript())
		}
	}
	return p.afterwards()
}

// afterwards waits for the client to close, which it must do without a word.
func (p *player) afterwards() error {
	c, err := p.receive()
	if err != nil {
		return ignoreEnd(err)
	}
	return fmt.Errorf("the script is over, but the client sent %s%s", c, p.transcript())
}

// transcript gives the end of the conversation for a failure.
func (p *player) transcript() string {
	if len(p.said) == 0 {
		return "\nnothing was said before"
	}
	return "\nthe conversation so far (C is the client):\n  " + strings.Join(p.said, "\n  ")
}

// note adds a line to the conversation.
func (p *player) note(who string, b []byte) {
	line := strings.TrimSpace(string(b))
	if len(line) > keepText {
		line = fmt.Sprintf("%s… (%d bytes)", line[:keepText], len(line))
	}
	p.said = append(p.said, who+": "+line)
	if extra := len(p.said) - keepLines; extra > 0 {
		p.said = append([]string(nil), p.said[extra:]...)
	}
}

// receive waits for the next command.
func (p *player) receive() (Command, error) {
	var raw json.RawMessage
	if err := p.dec.Decode(&raw); err != nil {
		return Command{}, err
	}
	p.note("C", raw)
	var w struct {
		Execute   string          `json:"execute"`
		OOB       string          `json:"exec-oob"`
		Arguments json.RawMessage `json:"arguments"`
		ID        json.RawMessage `json:"id"`
	}
	if err := json.Unmarshal(raw, &w); err != nil {
		return Command{}, fmt.Errorf("not a command: %w", err)
	}
	if (w.Execute == "") == (w.OOB == "") {
		return Command{}, errors.New("not a command: one of execute and exec-oob is needed")
	}
	return Command{Name: w.Execute + w.OOB, OOB: w.OOB != "", Args: w.Arguments, ID: w.ID}, nil
}

// String gives the command's name and arguments.
func (c Command) String() string { return c.Name + " " + string(c.Args) }

// recall takes back a command that was put aside.
func (p *player) recall(label string) (Command, error) {
	c, ok := p.aside[label]
	if !ok {
		return Command{}, fmt.Errorf("no command was put aside as %q", label)
	}
	delete(p.aside, label)
	return c, nil
}

// answer replies with what a handler gave.
func (p *player) answer(c Command, v any) error {
	switch v := v.(type) {
	case Failure:
		return p.replyError(c, v.Class, v.Desc)
	case Answer:
		return errors.Join(p.event(v.Before), p.answer(c, v.Value), p.event(v.After))
	}
	return p.reply(c, v)
}

// event sends an event without data, unless the name is empty.
func (p *player) event(name string) error {
	if name == "" {
		return nil
	}
	return p.send(eventMessage(name, nil, -1, -1))
}

// reply answers c with v.
func (p *player) reply(c Command, v any) error {
	if v == nil {
		v = struct{}{}
	}
	return p.sendWithID(c, "return", v)
}

// replyError answers c with an error.
func (p *player) replyError(c Command, class, desc string) error {
	return p.sendWithID(c, "error", map[string]string{"class": class, "desc": desc})
}

// sendWithID sends one member and c's id, if it has one.
func (p *player) sendWithID(c Command, key string, v any) error {
	m := map[string]any{key: v}
	if c.ID != nil {
		m["id"] = c.ID
	}
	return p.send(m)
}

// eventMessage builds an event as QEMU sends it.
func eventMessage(name string, data any, seconds, microseconds int64) map[string]any {
	if seconds < 0 {
		now := time.Now()
		seconds, microseconds = now.Unix(), int64(now.Nanosecond()/1000)
	}
	m := map[string]any{
		"event":     name,
		"timestamp": map[string]int64{"seconds": seconds, "microseconds": microseconds},
	}
	if data != nil {
		m["data"] = data
	}
	return m
}

// send writes v as one line.
func (p *player) send(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return p.sendRaw(append(b, '\r', '\n'))
}

// sendRaw writes b as it is.
func (p *player) sendRaw(b []byte) error {
	p.note("S", b)
	_, err := p.conn.Write(b)
	return err
}

// drain reads until the client closes.
func (p *player) drain() error {
	_, err := io.Copy(io.Discard, p.conn)
	return ignoreEnd(err)
}

// ignoreEnd turns the client's going into success.
func ignoreEnd(err error) error {
	for _, end := range []error{io.EOF, io.ErrClosedPipe, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return nil
		}
	}
	return err
}

// takeFile gives the oldest descriptor that came.
func (p *player) takeFile() (*os.File, error) {
	if p.files == nil {
		return nil, errors.New("descriptors need Listen: this is not a unix socket")
	}
	if len(p.files.got) == 0 {
		return nil, errors.New("no descriptor came")
	}
	f := p.files.got[0]
	p.files.got = p.files.got[1:]
	return f, nil
}

// closeFiles closes descriptors that no step asked for.
func (p *player) closeFiles() {
	if p.files == nil {
		return
	}
	for _, f := range p.files.got {
		_ = f.Close() // only to free it
	}
}

// fileReader reads a unix socket and keeps the descriptors that come.
type fileReader struct {
	conn *net.UnixConn
	got  []*os.File
}

// Read reads bytes and files away descriptors.
func (r *fileReader) Read(b []byte) (int, error) {
	oob := make([]byte, syscall.CmsgSpace(16*4))
	n, oobn, _, _, err := r.conn.ReadMsgUnix(b, oob)
	if err == nil && n == 0 && oobn == 0 {
		return 0, io.EOF
	}
	msgs, perr := syscall.ParseSocketControlMessage(oob[:oobn])
	if perr != nil {
		return n, errors.Join(err, perr)
	}
	for i := range msgs {
		fds, perr := syscall.ParseUnixRights(&msgs[i])
		if perr != nil {
			continue // not descriptors
		}
		for _, fd := range fds {
			r.got = append(r.got, os.NewFile(uintptr(fd), fmt.Sprintf("qmptest-fd-%d", fd)))
		}
	}
	return n, err
}

// sameJSON compares two JSON texts by value; nil counts as the empty object.
func sameJSON(a, b json.RawMessage) bool {
	var x, y any
	if a == nil {
		a = json.RawMessage("{}")
	}
	if b == nil {
		b = json.RawMessage("{}")
	}
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	return reflect.DeepEqual(x, y)
}
