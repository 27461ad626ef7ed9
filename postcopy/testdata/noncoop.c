// noncoop is a program that does not cooperate: while its memory is filled by another process, it discards, moves,
// grows and unmaps parts of it and forks, with threads that read and write all the time. It knows what every byte has to
// be, and says so on its standard output.
//
//	noncoop PAGES SEED [fork] [share]
//
// With fork it forks, with share it gives pages of its shared memory back. Block 0 is private memory in five zones, block 1 is shared memory; both have PAGES pages.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, CHUNK = 16, READERS = 3, FORKS = 6 };

// What a page has to hold.
enum state { SOURCE, ZEROS, WRITTEN, GONE };

static int pages;
static unsigned char *place[2];       // where the blocks are mapped first
static _Atomic(unsigned char *) *at;  // where each page of block 0 is now
static atomic_uchar *state[2];        // what each page has to hold
// Held for writing while pages of block 0 move or go.
static pthread_rwlock_t layout = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
static atomic_int done;
static atomic_long checked, raced;
static int forked; // whether this process has forked off, and how often

static void fail(const char *format, ...) {
	va_list args;
	va_start(args, format);
	char text[300];
	int n = vsnprintf(text, sizeof text - 1, format, args);
	text[n++] = '\n';
	if (write(1, text, n) < 0) _exit(9);
	_exit(1);
}

static void expect(int ok, const char *call) {
	if (!ok) fail("%s: %s", call, strerror(errno));
}

static uint64_t next(uint64_t *seed) {
	uint64_t x = *seed;
	x ^= x << 13, x ^= x >> 7, x ^= x << 17;
	return *seed = x;
}

// The pages of block 0 belong to zones, one chunk after the other.
static int zone(int page) { return page / CHUNK % 5; }
enum { STAY, DROP, MOVE, UNMAP, WRITE };

static void fill(unsigned char *want, int block, int page, enum state s) {
	memset(want, 0, PAGE);
	if (s == ZEROS) return;
	if (s == SOURCE && (page / 3 + block) % 5 == 2) return;
	uint64_t first = (uint64_t)(block + 1) << 32 | (uint64_t)(page + 1);
	if (s == WRITTEN) first = ~first;
	memcpy(want, &first, 8);
	want[PAGE - 1] = 0xa5;
}

static int holds(const unsigned char *p, int block, int page, enum state s) {
	unsigned char want[PAGE];
	fill(want, block, page, s);
	return memcmp((const void *)p, want, PAGE) == 0;
}

// check verifies a page that nobody changes meanwhile.
static void check(int block, int page) {
	enum state s = atomic_load(&state[block][page]);
	if (s == GONE) return;
	const unsigned char *p = block == 0 ? atomic_load(&at[page]) : place[1] + (size_t)page * PAGE;
	if (block == 1 && forked && s == SOURCE && holds(p, block, page, ZEROS)) return; // the parent has removed it since
	if (!holds(p, block, page, s)) {
		fail("block %d page %d, zone %d, in process %d: holds %02x %02x %02x %02x %02x … %02x, not state %d", block, page,
			block == 0 ? zone(page) : -1, forked, p[0], p[1], p[2], p[3], p[4], p[PAGE - 1], s);
	}
	atomic_fetch_add(&checked, 1);
}

static void checkAll(void) {
	for (int page = 0; page < pages; page++) check(0, page);
	for (int page = 0; page < pages; page++) check(1, page);
}

// reader touches pages while they are being discarded, moved and filled.
static void *reader(void *arg) {
	uint64_t seed = (uintptr_t)arg;
	unsigned char copy[PAGE];
	while (!atomic_load(&done)) {
		int block = next(&seed) % 4 == 0, page = next(&seed) % pages;
		pthread_rwlock_rdlock(&layout);
		enum state before = atomic_load(&state[block][page]);
		if (before != GONE) {
			memcpy(copy, block == 0 ? atomic_load(&at[page]) : place[1] + (size_t)page * PAGE, PAGE);
			enum state after = atomic_load(&state[block][page]);
			// A page that changes while it is read may be the one or the other, or in between.
			if (before == after && !holds(copy, block, page, before)) {
				// The state is told after the change, so that a page may be zeros already.
				int changes = block == 1 || zone(page) == DROP || zone(page) == WRITE;
				if (before != SOURCE || !changes) {
					fail("reader: block %d page %d, zone %d: holds %02x %02x … %02x, not state %d", block, page,
						block == 0 ? zone(page) : -1, copy[0], copy[1], copy[PAGE - 1], before);
				}
				atomic_fetch_add(&raced, 1);
			}
			atomic_fetch_add(&checked, 1);
		}
		pthread_rwlock_unlock(&layout);
	}
	return NULL;
}

static void drop(int first) {
	expect(madvise(atomic_load(&at[first]), CHUNK * PAGE, MADV_DONTNEED) == 0, "MADV_DONTNEED");
	for (int i = 0; i < CHUNK; i++) atomic_store(&state[0][first + i], ZEROS);
}

// removeShared gives shared pages back to the system. In a process that forked off they are not its own to give.
static void removeShared(int first) {
	expect(madvise(place[1] + (size_t)first * PAGE, CHUNK * PAGE, MADV_REMOVE) == 0, "MADV_REMOVE");
	for (int i = 0; i < CHUNK; i++) atomic_store(&state[1][first + i], ZEROS);
}

// move remaps a chunk: to anywhere, larger than it was, or so that its old place stays mapped.
static void move(int first, int how) {
	size_t size = CHUNK * PAGE, larger = how == 1 ? 2 * size : size;
	unsigned char *from = atomic_load(&at[first]);
	pthread_rwlock_wrlock(&layout);
	int flags = how == 2 ? MREMAP_MAYMOVE | MREMAP_DONTUNMAP : MREMAP_MAYMOVE;
	unsigned char *to;
	if (how == 2) {
		to = mremap(from, size, size, flags, NULL);
	} else {
		unsigned char *hole = mmap(NULL, larger, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		expect(hole != MAP_FAILED, "mmap");
		to = mremap(from, size, larger, flags | MREMAP_FIXED, hole);
	}
	if (to == MAP_FAILED) fail("mremap of %d, way %d: %s", first, how, strerror(errno));
	for (int i = 0; i < CHUNK; i++) atomic_store(&at[first + i], to + (size_t)i * PAGE);
	pthread_rwlock_unlock(&layout);
	unsigned char none[PAGE] = {0};
	if (how == 2 && memcmp(from, none, PAGE) != 0) fail("what was left behind at %d holds %02x", first, from[0]);
	if (how == 1 && memcmp(to + size, none, PAGE) != 0) fail("what was grown behind %d holds %02x", first, to[size]);
}

static void unmap(int first) {
	pthread_rwlock_wrlock(&layout);
	for (int i = 0; i < CHUNK; i++) atomic_store(&state[0][first + i], GONE);
	expect(munmap(atomic_load(&at[first]), CHUNK * PAGE) == 0, "munmap");
	pthread_rwlock_unlock(&layout);
}

static void overwrite(int first) {
	for (int i = 0; i < CHUNK; i++) {
		unsigned char want[PAGE];
		fill(want, 0, first + i, WRITTEN);
		memcpy(atomic_load(&at[first + i]), want, PAGE);
		atomic_store(&state[0][first + i], WRITTEN);
	}
}

// change does to a chunk of block 0 what its zone is for.
static void change(int first, uint64_t *seed) {
	if (next(seed) % 3 == 0) check(0, first + next(seed) % CHUNK);
	switch (zone(first)) {
	case DROP: drop(first); break;
	case MOVE: move(first, next(seed) % 3); break;
	case UNMAP: unmap(first); break;
	case WRITE: overwrite(first); break;
	}
	if (next(seed) % 3 == 0) check(0, first + next(seed) % CHUNK);
}

static pid_t branch(uint64_t seed, int depth);

// offspring is what a process that forked off does: it has one thread, and its own memory.
static void offspring(uint64_t seed, int depth) {
	forked++;
	layout = (pthread_rwlock_t)PTHREAD_RWLOCK_INITIALIZER; // threads that are not here may hold the old one
	pid_t grandchild = -1;
	for (int n = 0; n < 20; n++) {
		int first = next(&seed) % (pages / CHUNK) * CHUNK;
		if (atomic_load(&state[0][first]) != GONE) change(first, &seed);
		if (n == 10 && depth > 0) grandchild = branch(next(&seed), depth - 1);
	}
	checkAll();
	int status = 0;
	if (grandchild >= 0) expect(waitpid(grandchild, &status, 0) == grandchild && status == 0, "a process that forked off twice");
	_exit(0);
}

static pid_t branch(uint64_t seed, int depth) {
	pid_t pid = fork();
	expect(pid >= 0, "fork");
	if (pid == 0) offspring(seed, depth);
	return pid;
}

static void map(void) {
	size_t size = (size_t)pages * PAGE;
	place[0] = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = memfd_create("noncoop", MFD_CLOEXEC);
	expect(fd >= 0 && ftruncate(fd, size) == 0, "memfd_create");
	place[1] = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	expect(place[0] != MAP_FAILED && place[1] != MAP_FAILED, "mmap");
	at = calloc(pages, sizeof *at);
	for (int block = 0; block < 2; block++) state[block] = calloc(pages, 1);
	for (int page = 0; page < pages; page++) atomic_init(&at[page], place[0] + (size_t)page * PAGE);
}

int main(int argc, char **argv) {
	if (argc < 3) fail("usage: noncoop PAGES SEED [fork] [share]");
	int forks = 0, shares = 0;
	for (int i = 3; i < argc; i++) {
		forks |= strcmp(argv[i], "fork") == 0;
		shares |= strcmp(argv[i], "share") == 0;
	}
	pages = atoi(argv[1]);
	uint64_t seed = strtoull(argv[2], NULL, 0) * 2654435761u + 1;
	map();
	expect(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK) >= 0, "userfaultfd");
	printf("ready %p %p\n", (void *)place[0], (void *)place[1]);
	fflush(stdout);
	if (getchar() == EOF) return 0;
	pthread_t threads[READERS];
	for (int i = 0; i < READERS; i++) expect(pthread_create(&threads[i], NULL, reader, (void *)(uintptr_t)next(&seed)) == 0, "pthread_create");
	pid_t kids[FORKS];
	int n = 0, chunks = pages / CHUNK;
	for (int step = 0; step < 2 * chunks; step++) {
		int first = next(&seed) % chunks * CHUNK;
		if (next(&seed) % 5 == 0 && shares) removeShared(first);
		else if (atomic_load(&state[0][first]) != GONE) change(first, &seed);
		if (forks && n < FORKS && step % (2 * chunks / FORKS) == 5) kids[n] = branch(next(&seed), n % 2), n++;
	}
	for (int i = 0; i < n; i++) {
		int status;
		expect(waitpid(kids[i], &status, 0) == kids[i] && status == 0, "a process that forked off");
	}
	atomic_store(&done, 1);
	for (int i = 0; i < READERS; i++) pthread_join(threads[i], NULL);
	checkAll();
	printf("whole: %ld pages checked, %ld while they changed\n", atomic_load(&checked), atomic_load(&raced));
	fflush(stdout);
	while (getchar() != EOF); // stay until the test has looked
	return 0;
}
