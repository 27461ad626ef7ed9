package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// StateVersion is the version of the state file that this code writes and reads.
const StateVersion = 1

// maxState bounds the state file.
const maxState = 1 << 20

// WriteState replaces the state file in one step, so that a reader sees the old or
// the new one and never a part.
func WriteState(path string, s State) error {
	s.Version = StateVersion
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the lab's state: %w", err)
	}
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the lab's state: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write the lab's state: %w", err)
	}
	return nil
}

// ReadState reads a state file. The error wraps os.ErrNotExist if there is none.
func ReadState(path string) (State, error) {
	info, err := os.Stat(path)
	if err != nil {
		return State{}, fmt.Errorf("read the lab's state: %w", err)
	}
	if info.Size() > maxState {
		return State{}, fmt.Errorf("read the lab's state: %s has %d bytes", path, info.Size())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return State{}, fmt.Errorf("read the lab's state: %w", err)
	}
	return decodeState(data)
}

func decodeState(data []byte) (State, error) {
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return State{}, fmt.Errorf("read the lab's state: %w", err)
	}
	if s.Version != StateVersion {
		return State{}, fmt.Errorf("read the lab's state: version %d, this program knows %d", s.Version, StateVersion)
	}
	if s.Plan.Name == "" || s.Plan.Dir == "" {
		return State{}, errors.New("read the lab's state: it names no lab")
	}
	return s, nil
}
