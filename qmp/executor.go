package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"os"
)

// Executor is what the typed commands of this package run on: a Client, a
// WrappedMonitor, or anything else that can carry QMP.
type Executor interface {
	// Execute runs one command, as Client.Execute does.
	Execute(ctx context.Context, command string, args, out any) error
	// Subscribe receives events from now on, as Client.Subscribe does.
	Subscribe(o SubscribeOptions) (*Subscription, error)
}

// OOBExecutor is an Executor that may run commands out of band.
type OOBExecutor interface {
	Executor
	// OOB reports whether ExecuteOOB can be used on this connection.
	OOB() bool
	// ExecuteOOB runs one command out of band, as Client.ExecuteOOB does.
	ExecuteOOB(ctx context.Context, command string, args, out any) error
}

// FileExecutor is an Executor that can pass open files to QEMU.
type FileExecutor interface {
	Executor
	// ExecuteFile runs one command together with a file, as Client.ExecuteFile
	// does.
	ExecuteFile(ctx context.Context, command string, args, out any, file *os.File) error
}

var (
	_ OOBExecutor  = (*Client)(nil)
	_ FileExecutor = (*Client)(nil)
)

// run executes a command whose result does not matter.
func run(ctx context.Context, x Executor, command string, args any) error {
	return x.Execute(ctx, command, args, nil)
}

// runOOB executes a command out of band where x can, and in band elsewhere.
func runOOB(ctx context.Context, x Executor, command string, args any) error {
	if o, ok := x.(OOBExecutor); ok && o.OOB() {
		return o.ExecuteOOB(ctx, command, args, nil)
	}
	return run(ctx, x, command, args)
}

// query executes a command and decodes what it returns; a field that T requires
// and QEMU did not send is an error.
func query[T any](ctx context.Context, x Executor, command string, args any) (T, error) {
	var raw json.RawMessage
	var out T
	if err := x.Execute(ctx, command, args, &raw); err != nil {
		return out, err
	}
	err := decodeRequired(command, raw, &out)
	return out, err
}

// runFile executes a command with a file where x can carry one.
func runFile(ctx context.Context, x Executor, command string, args, out any, file *os.File) error {
	f, ok := x.(FileExecutor)
	if !ok {
		return &CallError{Command: command, Err: ErrNoDescriptors}
	}
	return f.ExecuteFile(ctx, command, args, out, file)
}

// errMissing is the cause when a reply lacks a field that it must have.
var errMissing = errors.New("required field is missing")
