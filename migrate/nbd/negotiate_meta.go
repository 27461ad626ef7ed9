package nbd

import "errors"

// metaContext is a context of block status that a client may choose.
type metaContext struct {
	id   uint32
	name string
}

const maxQueries = 64 // of one option

// contextsFor lists the contexts that a device has.
func contextsFor(d *device) []metaContext {
	list := []metaContext{{1, BaseAllocation}}
	if d.dirty != nil {
		list = append(list, metaContext{2, DirtyBitmap})
	}
	return list
}

// meta answers LIST_META_CONTEXT and SET_META_CONTEXT.
func (n *negotiation) meta(opt uint32, data []byte) {
	if opt == optSetMeta {
		n.contexts, n.contextsOf = nil, "" // whatever comes of this, the earlier choice is gone
	}
	name, queries, err := parseMeta(data)
	if err != nil {
		n.refuse(opt, repErrInvalid, err.Error())
		return
	}
	if !n.structured {
		n.refuse(opt, repErrInvalid, "contexts need structured replies")
		return
	}
	d := n.find(opt, name)
	if d == nil {
		return
	}
	for _, c := range contextsFor(d) {
		if !matches(queries, c.name, opt == optListMeta) {
			continue
		}
		id := c.id
		if opt == optSetMeta {
			n.contexts, n.contextsOf = append(n.contexts, c), name
		} else {
			id = 0
		}
		n.reply(opt, repMetaContext, append(wire.AppendUint32(nil, id), c.name...))
	}
	n.reply(opt, repAck, nil)
}

// matches is whether a context is asked for: by its name, or, in a list, by no query at all, its namespace, or QEMU's prefix
// of all bitmaps.
func matches(queries []string, name string, listing bool) bool {
	if listing && len(queries) == 0 {
		return true
	}
	for _, q := range queries {
		wild := listing && (q == "base:" || q == "qemu:" || q == "qemu:dirty-bitmap:")
		if q == name || wild && len(q) <= len(name) && name[:len(q)] == q {
			return true
		}
	}
	return false
}

// parseMeta reads the data of the options about contexts: an export's name and queries.
func parseMeta(p []byte) (export string, queries []string, err error) {
	export, p, err = parseName(p)
	if err != nil {
		return "", nil, err
	}
	if len(p) < 4 {
		return "", nil, errors.New("too short for queries")
	}
	count := wire.Uint32(p)
	if count > maxQueries {
		return "", nil, errors.New("too many queries")
	}
	p = p[4:]
	for range count {
		var q string
		if q, p, err = parseName(p); err != nil {
			return "", nil, err
		}
		queries = append(queries, q)
	}
	if len(p) != 0 {
		return "", nil, errors.New("something follows the queries")
	}
	return export, queries, nil
}
