/* Preloaded into a process that records, this ends it, or fails it, at its Nth write-like call on
 * files under a folder, and can log every such call.
 *
 * Counted are the calls that change what a file system holds: write and its kin, ftruncate, fsync,
 * rename, unlink, mkdir, and open where it creates. The test arms it through ctypes; unarmed it
 * only passes on.
 *
 * A torn write ends where a kill can end it. The kernel copies a write into its cache page by page
 * and looks for a fatal signal between pages, so what a killed writer leaves of a write is a
 * prefix that ends at a page of the file.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096

enum { COUNT = 0, KILL = 1, TEAR = 2, FAIL = 3, SHORT = 4 };

static char folder[PATH_MAX];
static size_t folder_length;
static int action;
static long first, calls_to_fail;
static int error_number;
static int log_descriptor = -1;
static int log_data;
static atomic_long calls;
static atomic_int armed;

void shim_arm(const char *under, int what, long at, long count, int error, int log_to, int data)
{
	snprintf(folder, sizeof folder, "%s", under);
	folder_length = strlen(folder);
	action = what;
	first = at;
	calls_to_fail = count;
	error_number = error;
	log_descriptor = log_to;
	log_data = data;
	atomic_store(&calls, 0);
	atomic_store(&armed, 1);
}

void shim_disarm(void) { atomic_store(&armed, 0); }

long shim_calls(void) { return atomic_load(&calls); }

#define REAL(name) \
	static __typeof__(name) *real; \
	if (!real) \
		real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static ssize_t plain_write(int descriptor, const void *data, size_t size)
{
	REAL(write);
	return real(descriptor, data, size);
}

static ssize_t plain_pwrite(int descriptor, const void *data, size_t size, off_t offset)
{
	REAL(pwrite64);
	return real(descriptor, data, size, offset);
}

static void die(void)
{
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}

static int watched(const char *path)
{
	return strncmp(path, folder, folder_length) == 0 &&
	       (path[folder_length] == '/' || path[folder_length] == 0);
}

static int path_of(int descriptor, char *path)
{
	char link[64];
	snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
	ssize_t length = readlink(link, path, PATH_MAX - 1);
	if (length < 0)
		return 0;
	path[length] = 0;
	return 1;
}

static void full_path(int at, const char *name, char *path)
{
	char base[PATH_MAX];
	if (name[0] == '/' || at == AT_FDCWD || !path_of(at, base))
		snprintf(path, PATH_MAX, "%s", name);
	else if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX)
		path[0] = 0;
}

static void note(const char *op, const char *path, const char *other, off_t offset, size_t size,
		 const void *data)
{
	char line[2 * PATH_MAX + 100];
	if (log_descriptor < 0)
		return;
	int kept = log_data && data != NULL;
	int length = snprintf(line, sizeof line, "%s\t%s\t%s\t%lld\t%zu\t%d\n", op, path, other,
			      (long long)offset, size, kept);
	plain_write(log_descriptor, line, length);
	if (kept)
		plain_write(log_descriptor, data, size);
}

/* Whether the call should go on (0), fail (its errno), or go half way and fail (-errno). */
static int step(const char *op, const char *path, const char *other, int descriptor, off_t offset,
		size_t size, const void *data)
{
	if (!atomic_load(&armed) || !(watched(path) || (other[0] && watched(other))))
		return 0;
	long number = atomic_fetch_add(&calls, 1) + 1;
	if (action == COUNT || number < first || (action >= FAIL && number >= first + calls_to_fail)) {
		note(op, path, other, offset, size, data);
		return 0;
	}
	if (action == FAIL)
		return error_number;
	if (action == SHORT) /* what lies before the next page of the file gets there */
		return data == NULL || number > first || size <= PAGE - (size_t)(offset % PAGE)
			       ? error_number : -error_number;
	if (action == TEAR && data != NULL) {
		size_t whole = PAGE - offset % PAGE; /* up to the next page of the file */
		if (size > whole) {
			size_t pages = (size - whole) / PAGE / 2 * PAGE; /* and half of those after */
			plain_pwrite(descriptor, data, whole + pages, offset);
		}
	}
	die();
	return 0;
}

static int on_descriptor(const char *op, int descriptor, off_t offset, size_t size,
			 const void *data)
{
	char path[PATH_MAX];
	if (!atomic_load(&armed) || descriptor == log_descriptor || !path_of(descriptor, path))
		return 0;
	return step(op, path, "", descriptor, offset, size, data);
}

static int on_path(const char *op, int at, const char *name)
{
	char path[PATH_MAX];
	if (!atomic_load(&armed))
		return 0;
	full_path(at, name, path);
	return step(op, path, "", -1, 0, 0, NULL);
}

static int on_paths(int at, const char *from, int other, const char *to)
{
	char path[PATH_MAX], target[PATH_MAX];
	if (!atomic_load(&armed))
		return 0;
	full_path(at, from, path);
	full_path(other, to, target);
	return step("rename", path, target, -1, 0, 0, NULL);
}

#define STOP(verdict) \
	do { \
		int verdict_ = (verdict); \
		if (verdict_ > 0) { \
			errno = verdict_; \
			return -1; \
		} \
	} while (0)

ssize_t write(int descriptor, const void *data, size_t size)
{
	int stop = 0;
	if (atomic_load(&armed) && descriptor != log_descriptor) {
		off_t offset = lseek(descriptor, 0, SEEK_CUR);
		stop = on_descriptor("write", descriptor, offset < 0 ? 0 : offset, size, data);
	}
	if (stop < 0)
		size = PAGE - lseek(descriptor, 0, SEEK_CUR) % PAGE; /* the next call meets the error */
	else
		STOP(stop);
	return plain_write(descriptor, data, size);
}

static ssize_t any_pwrite(int descriptor, const void *data, size_t size, off_t offset)
{
	int stop = on_descriptor("write", descriptor, offset, size, data);
	if (stop < 0)
		size = PAGE - offset % PAGE;
	else
		STOP(stop);
	return plain_pwrite(descriptor, data, size, offset);
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset)
{
	return any_pwrite(descriptor, data, size, offset);
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t offset)
{
	return any_pwrite(descriptor, data, size, offset);
}

ssize_t writev(int descriptor, const struct iovec *parts, int count)
{
	ssize_t total = 0;
	for (int i = 0; i < count; i++) {
		ssize_t done = write(descriptor, parts[i].iov_base, parts[i].iov_len);
		if (done < 0)
			return total ? total : -1;
		total += done;
		if ((size_t)done < parts[i].iov_len)
			break;
	}
	return total;
}

ssize_t pwritev(int descriptor, const struct iovec *parts, int count, off_t offset)
{
	ssize_t total = 0;
	for (int i = 0; i < count; i++) {
		ssize_t done = any_pwrite(descriptor, parts[i].iov_base, parts[i].iov_len, offset + total);
		if (done < 0)
			return total ? total : -1;
		total += done;
		if ((size_t)done < parts[i].iov_len)
			break;
	}
	return total;
}

ssize_t pwritev64(int descriptor, const struct iovec *parts, int count, off64_t offset)
{
	return pwritev(descriptor, parts, count, offset);
}

int ftruncate(int descriptor, off_t length)
{
	REAL(ftruncate);
	STOP(on_descriptor("truncate", descriptor, length, 0, NULL));
	return real(descriptor, length);
}

int ftruncate64(int descriptor, off64_t length)
{
	REAL(ftruncate64);
	STOP(on_descriptor("truncate", descriptor, length, 0, NULL));
	return real(descriptor, length);
}

int fsync(int descriptor)
{
	REAL(fsync);
	STOP(on_descriptor("fsync", descriptor, 0, 0, NULL));
	return real(descriptor);
}

int fdatasync(int descriptor)
{
	REAL(fdatasync);
	STOP(on_descriptor("fsync", descriptor, 0, 0, NULL));
	return real(descriptor);
}

int rename(const char *from, const char *to)
{
	REAL(rename);
	STOP(on_paths(AT_FDCWD, from, AT_FDCWD, to));
	return real(from, to);
}

int renameat(int at, const char *from, int other, const char *to)
{
	REAL(renameat);
	STOP(on_paths(at, from, other, to));
	return real(at, from, other, to);
}

int unlink(const char *name)
{
	REAL(unlink);
	STOP(on_path("unlink", AT_FDCWD, name));
	return real(name);
}

int unlinkat(int at, const char *name, int flags)
{
	REAL(unlinkat);
	STOP(on_path("unlink", at, name));
	return real(at, name, flags);
}

int rmdir(const char *name)
{
	REAL(rmdir);
	STOP(on_path("unlink", AT_FDCWD, name));
	return real(name);
}

int mkdir(const char *name, mode_t mode)
{
	REAL(mkdir);
	STOP(on_path("mkdir", AT_FDCWD, name));
	return real(name, mode);
}

int mkdirat(int at, const char *name, mode_t mode)
{
	REAL(mkdirat);
	STOP(on_path("mkdir", at, name));
	return real(at, name, mode);
}

static int creates(int at, const char *name, int flags)
{
	return (flags & (O_CREAT | O_TRUNC)) ? on_path("create", at, name) : 0;
}

#define OPEN(name) \
	int name(const char *path, int flags, ...) \
	{ \
		REAL(name); \
		va_list rest; \
		va_start(rest, flags); \
		mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
		va_end(rest); \
		STOP(creates(AT_FDCWD, path, flags)); \
		return real(path, flags, mode); \
	}

OPEN(open)
OPEN(open64)

#define OPENAT(name) \
	int name(int at, const char *path, int flags, ...) \
	{ \
		REAL(name); \
		va_list rest; \
		va_start(rest, flags); \
		mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
		va_end(rest); \
		STOP(creates(at, path, flags)); \
		return real(at, path, flags, mode); \
	}

OPENAT(openat)
OPENAT(openat64)
