package sys

// Categories of pages for Pagemap.Scan (linux/fs.h, PAGE_IS_*).
const (
	PageWPAllowed = 1 << 0 // in a range registered with FeatureWPAsync
	PageWritten   = 1 << 1 // written since it was last protected; a page that never was protected counts as written
	PageFile      = 1 << 2 // backed by a file, tmpfs and memfd too
	PagePresent   = 1 << 3
	PageSwapped   = 1 << 4
	PagePFNZero   = 1 << 5 // the shared page of zeros
	PageHuge      = 1 << 6 // mapped by a huge page, transparent or hugetlbfs
	PageSoftDirty = 1 << 7
)

// ScanOptions say which pages a scan looks for and what it does with them. The masks hold Page* bits.
type ScanOptions struct {
	// WPMatching write-protects what it reports, in the same step. CheckWPAsync makes it an error (EPERM) if some
	// page of the range is not registered with FeatureWPAsync; without it such pages are left alone.
	WPMatching, CheckWPAsync bool
	// Category: bits that a page must have (or lack, if they are in Inverted too); AnyOf: bits of which it must have one.
	Category, AnyOf, Inverted uint64
	// Return are the bits that are reported. Ranges that differ in them are told apart.
	Return uint64
	// MaxPages ends the scan early; 0 is no limit.
	MaxPages uint64
}

// WrittenPages are the options of a harvest: report what was written and protect it again. Category and return mask hold
// PageWritten alone, since some kernels overlook discarded pages with any other mask.
func WrittenPages() ScanOptions {
	return ScanOptions{WPMatching: true, CheckWPAsync: true, Category: PageWritten, Return: PageWritten}
}

// PageRegion is a range of addresses whose pages have the same categories (struct page_region).
type PageRegion struct{ Start, End, Categories uint64 }

// softDirtyBit is the one of /proc/PID/pagemap that says that a page was written since the last ClearSoftDirty.
const softDirtyBit = 1 << 55
