package qmp

import (
	"context"
	"encoding/json"
	"os"
)

// QOMGet reads a property of a QEMU object into out, which depends on the
// property.
func QOMGet(ctx context.Context, x Executor, path, property string, out any) error {
	return x.Execute(ctx, "qom-get", map[string]string{"path": path, "property": property}, out)
}

// QOMSet writes a property of a QEMU object.
func QOMSet(ctx context.Context, x Executor, path, property string, value any) error {
	return run(ctx, x, "qom-set", map[string]any{"path": path, "property": property, "value": value})
}

// QOMProperty is one property of a QEMU object.
type QOMProperty struct {
	Name string `json:"name"` // name
	// Type is a type's name, link<TYPE> or child<TYPE>.
	Type         string          `json:"type"`
	Description  *string         `json:"description"`             // for people
	DefaultValue json.RawMessage `json:"default-value,omitempty"` // absent if unknown
}

// QOMList lists the properties and children of a QEMU object.
func QOMList(ctx context.Context, x Executor, path string) ([]QOMProperty, error) {
	return query[[]QOMProperty](ctx, x, "qom-list", map[string]string{"path": path})
}

// TLSCredsX509 are credentials from a folder of PEM files, as libvirt lays it out.
type TLSCredsX509 struct {
	// Endpoint is client or server.
	Endpoint string `json:"endpoint"`
	// Dir holds ca-cert.pem and {client,server}-{cert,key}.pem.
	Dir string `json:"dir"`
	// VerifyPeer tells whether the other side must have a certificate, too; absent
	// means yes.
	VerifyPeer *bool `json:"verify-peer,omitempty"`
	// PasswordID names a secret object that unlocks the key.
	PasswordID string `json:"passwordid,omitempty"`
	// Priority is a GnuTLS priority string.
	Priority string `json:"priority,omitempty"`
}

// TLSCredsPSK are credentials from a key that both sides share.
type TLSCredsPSK struct {
	// Endpoint is client or server.
	Endpoint string `json:"endpoint"`
	// Dir holds keys.psk.
	Dir string `json:"dir"`
	// Username selects the key at a client; absent means qemu.
	Username string `json:"username,omitempty"`
	// Priority is a GnuTLS priority string.
	Priority string `json:"priority,omitempty"`
}

// ObjectAdd creates an object of a QEMU type. Props is encoded as a JSON object,
// nil for none; id and type win over properties of those names.
func ObjectAdd(ctx context.Context, x Executor, qomType, id string, props any) error {
	args := make(map[string]json.RawMessage) // keeps large numbers as they are
	if props != nil {
		b, err := json.Marshal(props)
		if err == nil {
			err = json.Unmarshal(b, &args)
		}
		if err != nil {
			return &CallError{Command: "object-add", Err: err}
		}
	}
	for name, value := range map[string]string{"qom-type": qomType, "id": id} {
		b, err := json.Marshal(value)
		if err != nil {
			return &CallError{Command: "object-add", Err: err}
		}
		args[name] = b
	}
	return run(ctx, x, "object-add", args)
}

// ObjectAddTLSX509 creates X.509 credentials under id.
func ObjectAddTLSX509(ctx context.Context, x Executor, id string, c TLSCredsX509) error {
	return ObjectAdd(ctx, x, "tls-creds-x509", id, c)
}

// ObjectAddTLSPSK creates credentials of a shared key under id.
func ObjectAddTLSPSK(ctx context.Context, x Executor, id string, c TLSCredsPSK) error {
	return ObjectAdd(ctx, x, "tls-creds-psk", id, c)
}

// ObjectDel deletes an object, which nothing may use any more.
func ObjectDel(ctx context.Context, x Executor, id string) error {
	return run(ctx, x, "object-del", map[string]string{"id": id})
}

// GetFD gives QEMU a duplicate of file under name, which replaces an earlier one
// of that name. A migration to fd:NAME consumes it. The file stays the caller's.
func GetFD(ctx context.Context, x Executor, name string, file *os.File) error {
	return runFile(ctx, x, "getfd", map[string]string{"fdname": name}, nil, file)
}

// CloseFD closes what GetFD gave.
func CloseFD(ctx context.Context, x Executor, name string) error {
	return run(ctx, x, "closefd", map[string]string{"fdname": name})
}

// AddedFD is where add-fd put a descriptor; QEMU opens it as
// /dev/fdset/<SetID>.
type AddedFD struct {
	SetID int64 `json:"fdset-id"` // the set
	FD    int64 `json:"fd"`       // number in QEMU's process
}

// AddFD gives QEMU a duplicate of file in the set, or in a new one if set is nil.
// The file stays the caller's.
func AddFD(ctx context.Context, x Executor, set *int64, file *os.File) (AddedFD, error) {
	var raw json.RawMessage
	args := struct {
		Set *int64 `json:"fdset-id,omitempty"`
	}{set}
	var out AddedFD
	if err := runFile(ctx, x, "add-fd", args, &raw, file); err != nil {
		return out, err
	}
	err := decodeRequired("add-fd", raw, &out)
	return out, err
}

// RemoveFD takes a descriptor out of a set, or all if fd is nil.
func RemoveFD(ctx context.Context, x Executor, set int64, fd *int64) error {
	return run(ctx, x, "remove-fd", struct {
		Set int64  `json:"fdset-id"`
		FD  *int64 `json:"fd,omitempty"`
	}{set, fd})
}
