package agent

import (
	"context"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// Images makes disk images on the agent's host, as package storage does. It takes root: an agent of anybody else refuses,
// with ErrNotSupported, all but the description.
type Images interface {
	// DescribeImage tells what is at a path.
	DescribeImage(ctx context.Context, q storage.Query) (storage.Image, error)
	// StageImage makes an image under a name of the migration's, and tells what it made: the caller writes that down
	// before it has the image placed.
	StageImage(ctx context.Context, s storage.Spec) (storage.Made, error)
	// PlaceImage gives a staged image its name, which no file may have.
	PlaceImage(ctx context.Context, m storage.Made) error
	// RemoveImage removes what StageImage made, placed or not, unless somebody uses it. What is gone is no error.
	RemoveImage(ctx context.Context, m storage.Made) error
	// SyncImages has what the host's cache holds of images written to their storage, and with drop forgotten.
	SyncImages(ctx context.Context, paths []string, drop bool) error
}

// imagePaths is what SyncImages is asked with.
type imagePaths struct {
	Paths []string `json:"paths"`
	Drop  bool     `json:"drop,omitempty"`
}

func (s *session) describeImage(ctx context.Context, q *storage.Query) (*storage.Image, error) {
	img, err := s.impl.DescribeImage(ctx, *q)
	return &img, err
}

func (s *session) stageImage(ctx context.Context, spec *storage.Spec) (*storage.Made, error) {
	m, err := s.impl.StageImage(ctx, *spec)
	return &m, err
}

func (s *session) placeImage(ctx context.Context, m *storage.Made) (*empty, error) {
	return &empty{}, s.impl.PlaceImage(ctx, *m)
}

func (s *session) removeImage(ctx context.Context, m *storage.Made) (*empty, error) {
	return &empty{}, s.impl.RemoveImage(ctx, *m)
}

func (s *session) syncImages(ctx context.Context, p *imagePaths) (*empty, error) {
	return &empty{}, s.impl.SyncImages(ctx, p.Paths, p.Drop)
}

// DescribeImage asks the agent. See Images.
func (c *Client) DescribeImage(ctx context.Context, q storage.Query) (img storage.Image, err error) {
	err = c.call(ctx, "DescribeImage", "describe the image "+q.Path, "", &q, &img)
	return img, err
}

// StageImage asks the agent. See Images.
func (c *Client) StageImage(ctx context.Context, s storage.Spec) (m storage.Made, err error) {
	err = c.call(ctx, "StageImage", "make the image "+s.Path, migrate.SideDestination, &s, &m)
	return m, err
}

// PlaceImage asks the agent. See Images.
func (c *Client) PlaceImage(ctx context.Context, m storage.Made) error {
	return c.call(ctx, "PlaceImage", "place the image "+m.Path, migrate.SideDestination, &m, &empty{})
}

// RemoveImage asks the agent. See Images.
func (c *Client) RemoveImage(ctx context.Context, m storage.Made) error {
	return c.call(ctx, "RemoveImage", "remove the image "+m.Path, migrate.SideDestination, &m, &empty{})
}

// SyncImages asks the agent. See Images.
func (c *Client) SyncImages(ctx context.Context, paths []string, drop bool) error {
	return c.call(ctx, "SyncImages", "write out the images", "", &imagePaths{paths, drop}, &empty{})
}
