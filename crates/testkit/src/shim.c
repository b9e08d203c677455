/* Faults for the store's files, between the unmodified server and libc.
 *
 * Preloaded (LD_PRELOAD). HAWK_FAULTS names a file of words that say what is
 * to happen from now on; it is read anew at each call, so that a test can change
 * its mind:
 *
 *   write=N    writes fail with errno N
 *   torn       writes put half of their bytes down and fail with EIO
 *   sync=N     syncs fail with errno N
 *   sync=hang  syncs wait for as long as this word stands
 *   sync=skip  syncs do nothing and succeed: what a missing fsync would be
 *
 * Only files whose path contains "hawk.db" are meant, and not the lock file.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void read_words(char *words, size_t size)
{
	const char *path = getenv("HAWK_FAULTS");
	ssize_t got = 0;
	int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd >= 0) {
		got = syscall(SYS_read, fd, words, size - 1);
		syscall(SYS_close, fd);
	}
	words[got > 0 ? got : 0] = '\0';
}

static int is_meant(int fd)
{
	char link[64], path[4096];
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t length = readlink(link, path, sizeof path - 1);
	if (length < 0)
		return 0;
	path[length] = '\0';
	return strstr(path, "hawk.db") && !strstr(path, "-lock") && !strstr(path, "-shm");
}

/* The number behind `key`, 0 if it is not there, -1 if it is a word. */
static int value(const char *words, const char *key, const char **word)
{
	const char *found = strstr(words, key);
	if (!found)
		return 0;
	*word = found + strlen(key);
	return **word >= '0' && **word <= '9' ? atoi(*word) : -1;
}

/* Whether a write fails; with `*count` lowered, it is to be torn. */
static int write_fails(int fd, size_t *count)
{
	char words[256];
	const char *word;
	if (!is_meant(fd))
		return 0;
	read_words(words, sizeof words);
	if (strstr(words, "torn")) {
		*count /= 2;
		return EIO;
	}
	return value(words, "write=", &word);
}

static int sync_file(int fd, long number)
{
	char words[256];
	const char *word = "";
	int error = 0;
	while (is_meant(fd)) {
		read_words(words, sizeof words);
		error = value(words, "sync=", &word);
		if (error >= 0 || strncmp(word, "hang", 4) != 0)
			break;
		struct timespec pause = { .tv_sec = 0, .tv_nsec = 1000000 };
		nanosleep(&pause, NULL);
		error = 0;
	}
	if (error > 0) {
		errno = error;
		return -1;
	}
	return error < 0 ? 0 : (int)syscall(number, fd);
}

int fsync(int fd)
{
	return sync_file(fd, SYS_fsync);
}

int fdatasync(int fd)
{
	return sync_file(fd, SYS_fdatasync);
}

ssize_t write(int fd, const void *bytes, size_t count)
{
	size_t whole = count;
	int error = write_fails(fd, &count);
	if (!error)
		return syscall(SYS_write, fd, bytes, count);
	if (count < whole)
		syscall(SYS_write, fd, bytes, count);
	errno = error;
	return -1;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset)
{
	size_t whole = count;
	int error = write_fails(fd, &count);
	if (!error)
		return syscall(SYS_pwrite64, fd, bytes, count, offset);
	if (count < whole)
		syscall(SYS_pwrite64, fd, bytes, count, offset);
	errno = error;
	return -1;
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
	return pwrite64(fd, bytes, count, offset);
}
