// Package kept keeps copies of guests' RAM on a host that a guest has left, for its return: pages that are still the same
// need not come over the link then.
//
//	Dir/                       0700, the user's who keeps
//	  <guest's UUID>/
//	    <block, escaped>.ram   one sparse file for each RAM block: zeros are holes
//	    copy.json              what it is; written last
//	  .new-…, .old-…           a copy that is being made, or removed; swept by the next one if nobody holds its lock
//
// A copy is a hint and never trusted: who uses it compares the bytes that he read with fingerprints of the source's own, and
// takes those bytes and no others. A copy that is old, torn or tampered with costs bytes over the link, and no more than that.
//
// What a copy holds is the guest's memory, with all the secrets in it. That is why it is readable for its owner alone, why
// nothing but a plain file of his is opened, no link followed, and why it is made only for those who ask for it.
//
// # Ownership
//
// A Store has no state but its folder; several processes may use one. A Copy holds files open until Close; it can be dropped or
// replaced meanwhile. Making one takes no more memory than a buffer. When it fails half-way, nothing of it is left; when its
// process dies, a folder is left that nobody takes for a copy.
package kept
