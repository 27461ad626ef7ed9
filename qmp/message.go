package qmp

import (
	"encoding/json"
	"time"
)

// message is anything that QEMU sends. Exactly one of QMP, Event, Return and
// Error tells which kind it is.
type message struct {
	QMP       *wireGreeting   `json:"QMP"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp *wireTime       `json:"timestamp"`
	ID        json.RawMessage `json:"id"`
	Return    json.RawMessage `json:"return"`
	Error     *wireError      `json:"error"`
}

// wireGreeting is the first message of a connection.
type wireGreeting struct {
	Version      Version  `json:"version"`
	Capabilities []string `json:"capabilities"`
}

// wireError is QEMU's error object.
type wireError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// wireTime is an event's timestamp. QEMU sends -1 when it could not read its
// clock.
type wireTime struct {
	Seconds      int64 `json:"seconds"`
	Microseconds int64 `json:"microseconds"`
}

// time gives the timestamp, or the zero time where there is none.
func (t *wireTime) time() time.Time {
	if t == nil || t.Seconds < 0 || t.Microseconds < 0 {
		return time.Time{}
	}
	return time.Unix(t.Seconds, t.Microseconds*1000)
}

// kind says what a message is. The zero value is none of them.
type kind int

const (
	kindGreeting kind = iota + 1
	kindEvent
	kindReturn
	kindError
)

// parseMessage decodes one message and says what it is. A message that is none
// of the four kinds, or several at once, is a *ProtocolError.
func parseMessage(b []byte) (message, kind, error) {
	var m message
	if err := json.Unmarshal(b, &m); err != nil {
		return message{}, 0, protocolError("malformed message", b, err)
	}
	var k kind
	found := 0
	for _, c := range []struct {
		present bool
		kind    kind
	}{
		{m.QMP != nil, kindGreeting},
		{m.Event != "", kindEvent},
		{m.Return != nil, kindReturn},
		{m.Error != nil, kindError},
	} {
		if c.present {
			k = c.kind
			found++
		}
	}
	if found != 1 {
		return message{}, 0, protocolError("neither a greeting, an event nor a reply", b, nil)
	}
	return m, k, nil
}

// wireCommand is a command as it goes to QEMU; one of Execute and OOB is set.
type wireCommand struct {
	Execute   string `json:"execute,omitempty"`
	OOB       string `json:"exec-oob,omitempty"`
	Arguments any    `json:"arguments,omitempty"`
	ID        string `json:"id"`
}
