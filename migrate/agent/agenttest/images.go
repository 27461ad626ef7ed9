package agenttest

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// What is asked of images, and what is answered, arrives whole.
func images(t *testing.T, reach Reach) {
	layer := storage.Layer{Path: "/i/a", Format: "qcow2", VirtualSize: 1 << 50, Allocated: 7, ClusterSize: 1 << 16, Compat: "1.1",
		LazyRefcounts: true, ExtendedL2: true, Encrypted: true, DataFile: "/d", Backing: "/b", BackingFormat: "raw"}
	made := storage.Made{Target: "vda", Path: "/i/a", Staged: ".vmmigrate-m-1-vda", Device: 1 << 63, Inode: 1<<64 - 1, Born: 1 << 62}
	f := &Fake{Made: made, Images: map[string]storage.Image{"/i/a": {Path: "/i/a", Kind: storage.KindFile, InUse: true, Free: 1 << 62,
		Filesystem: 1<<64 - 1, Layers: []storage.Layer{layer, {Path: "/b", Format: "raw"}}}}}
	a := reach(t, f)
	got, err := a.DescribeImage(t.Context(), storage.Query{Path: "/i/a", Format: "qcow2"})
	if err != nil || !reflect.DeepEqual(got, f.Images["/i/a"]) {
		t.Error(err, cmp.Diff(f.Images["/i/a"], got))
	}
	spec := storage.Spec{Migration: "m-1", Target: "vda", Path: "/i/a", Format: "qcow2", Size: 512, Like: &layer, Backing: "/b",
		BackingFormat: "raw", Data: 9, OwnerLike: "/o"}
	if m, err := a.StageImage(t.Context(), spec); err != nil || m != made {
		t.Errorf("%+v, %v", m, err)
	}
	if err := a.PlaceImage(t.Context(), made); err != nil {
		t.Error(err)
	}
	if err := a.RemoveImage(t.Context(), made); err != nil {
		t.Error(err)
	}
	synced := Synced{[]string{"/i/a", "/i/b c"}, true}
	if err := a.SyncImages(t.Context(), synced.Paths, synced.Drop); err != nil {
		t.Error(err)
	}
	for method, want := range map[string]any{"DescribeImage": storage.Query{Path: "/i/a", Format: "qcow2"}, "StageImage": spec,
		"PlaceImage": made, "RemoveImage": made, "SyncImages": synced} {
		if got, _ := f.Last(method); !reflect.DeepEqual(got.With, want) {
			t.Errorf("%s: %s", method, cmp.Diff(want, got.With))
		}
	}
}
