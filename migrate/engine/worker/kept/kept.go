package kept

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// Errors that callers ask for.
var (
	// ErrNone says that there is no copy of the guest.
	ErrNone = errors.New("no copy of the guest's RAM is kept here")
	// ErrNoRoom says that a copy would not fit.
	ErrNoRoom = errors.New("no room for a copy of the guest's RAM")
)

// version of the form of a copy. Others are not read.
const version = 1

const (
	infoFile  = "copy.json"
	maxInfo   = 1 << 20
	maxBlocks = 512
)

// Info is what is known of a copy.
type Info struct {
	Version int    `json:"version"`
	UUID    string `json:"uuid"`
	Guest   string `json:"guest"`
	// Kept is when it was made.
	Kept   time.Time `json:"kept"`
	Blocks []Block   `json:"blocks"`
}

// Block is a RAM block of a copy.
type Block struct {
	Name     string `json:"name"`
	Size     int64  `json:"size"`
	PageSize int64  `json:"page_size"`
	// Data is how many bytes of it are no zeros.
	Data int64 `json:"data"`
}

// Bytes is what a copy takes on its file system, about.
func (i Info) Bytes() int64 {
	var n int64
	for _, b := range i.Blocks {
		n += b.Data
	}
	return n
}

func (i Info) check(uuid string) error {
	switch {
	case i.Version != version:
		return fmt.Errorf("its form is %d, and %d is known", i.Version, version)
	case i.UUID != uuid:
		return fmt.Errorf("it is of the guest %q", i.UUID)
	case len(i.Blocks) == 0 || len(i.Blocks) > maxBlocks:
		return fmt.Errorf("it has %d blocks", len(i.Blocks))
	}
	for _, b := range i.Blocks {
		if err := (ram.Block{Name: b.Name, Size: b.Size, PageSize: b.PageSize}).Check(); err != nil {
			return err
		}
		if b.Data < 0 || b.Data > b.Size {
			return fmt.Errorf("RAM block %q holds %d bytes of %d", b.Name, b.Data, b.Size)
		}
	}
	return nil
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// Name is the UUID as copies are called: it becomes the name of a folder. A guest without one of its own cannot be told from
// another, and gets an error.
func Name(uuid string) (string, error) {
	name := strings.ToLower(uuid)
	if strings.Trim(name, "0-") == "" {
		return "", errors.New("the guest has no UUID of its own")
	}
	if !uuidForm.MatchString(name) {
		return "", fmt.Errorf("%.60q is no UUID", uuid)
	}
	return name, nil
}

// fileOf is the file of a block.
func fileOf(block string) (string, error) {
	name := url.PathEscape(block) + ".ram"
	if block == "" || len(name) > 255 {
		return "", fmt.Errorf("%.60q makes no name of a file", block)
	}
	return name, nil
}
