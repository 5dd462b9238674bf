/* Preloaded into PostgreSQL: keeps in the folder `unsynced` what the disk has of the data folder, the working directory.
 *
 * A file is copied there when it is flushed, with its content at the beginning of the flush; what is written later is
 * lost with the power. Names that are gone are removed when their folder is flushed.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DISK "unsynced"

static void fail(const char *what) {
    dprintf(2, "unsynced: %s: %s\n", what, strerror(errno));
    abort();
}

/* Return the path of an open file below the working directory, or NULL for one outside it or in DISK. */
static const char *relative(int fd, char *path) {
    char link[64], root[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    if (size < 0 || getcwd(root, sizeof root) == NULL) fail("readlink");
    path[size] = 0;
    size_t length = strlen(root);
    if (strncmp(path, root, length) != 0 || path[length] != '/') return NULL;
    return strncmp(path + length + 1, DISK, strlen(DISK)) == 0 ? NULL : path + length + 1;
}

static void keep_file(const char *name) {
    char draft[PATH_MAX], kept[PATH_MAX], buffer[1 << 16];
    snprintf(draft, sizeof draft, DISK "/%d.draft", getpid());
    snprintf(kept, sizeof kept, DISK "/%s", name);
    int from = open(name, O_RDONLY | O_CLOEXEC);
    if (from < 0 && errno == ENOENT) return; /* removed while it was open */
    int to = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (from < 0 || to < 0) fail(name);
    ssize_t size;
    while ((size = read(from, buffer, sizeof buffer)) > 0)
        if (write(to, buffer, size) != size) fail(draft);
    close(from);
    close(to);
    for (char *end = kept + strlen(DISK) + 1; (end = strchr(end, '/')) != NULL; *end++ = '/') {
        *end = 0;
        mkdir(kept, 0700);
    }
    if (size < 0 || rename(draft, kept) != 0) fail(kept);
}

static void keep_names(const char *name) {
    char kept[PATH_MAX], one[2 * PATH_MAX];
    snprintf(kept, sizeof kept, DISK "/%s", name);
    DIR *folder = opendir(kept);
    if (folder == NULL) return;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        snprintf(one, sizeof one, "%s/%s", name, entry->d_name);
        if (entry->d_type == DT_REG && access(one, F_OK) != 0) {
            snprintf(one, sizeof one, "%s/%s", kept, entry->d_name);
            unlink(one);
        }
    }
    closedir(folder);
}

static void keep(int fd) {
    char path[PATH_MAX];
    struct stat status;
    int before = errno;
    const char *name = relative(fd, path);
    if (name != NULL && fstat(fd, &status) == 0) {
        if (S_ISDIR(status.st_mode)) keep_names(name);
        else keep_file(name);
    }
    errno = before;
}

int fsync(int fd) {
    keep(fd);
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}

int fdatasync(int fd) {
    keep(fd);
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
