#include "cluster/store/backup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"

static const char magic[8] = {'F', 'E', 'R', 'R', 'Y', 'B', 'A', 'K'};

static int put(struct backup_writer *w, const void *bytes, size_t length)
{
    w->crc = crc32c(w->crc, bytes, length);
    errno = 0;
    if (fwrite(bytes, 1, length, w->file) != length)
        w->error = errno ? -errno : -EIO;
    return w->error;
}

int backup_begin(struct backup_writer *w, FILE *file)
{
    uint8_t version[4];
    *w = (struct backup_writer){.file = file};
    bytes_put_u32(version, BACKUP_VERSION);
    int r = put(w, magic, sizeof(magic));
    return r ? r : put(w, version, sizeof(version));
}

int backup_piece(void *writer, const void *bytes, size_t length)
{
    struct backup_writer *w = writer;
    w->length += length;
    return put(w, bytes, length);
}

int backup_end(struct backup_writer *w)
{
    uint8_t tail[BACKUP_TAIL];
    bytes_put_u64(tail, w->length);
    int r = put(w, tail, 8);
    bytes_put_u32(tail + 8, w->crc);
    return r ? r : put(w, tail + 8, 4);
}

static uint8_t *read_all(const char *path, size_t *length, struct error *err)
{
    struct byte_writer w;
    FILE *in = fopen(path, "rbe");
    if (!in) {
        error_set_errno(err, errno, "backup '%s' can't be opened", path);
        return NULL;
    }
    byte_writer_init(&w);
    int error = byte_writer_stream(&w, in);
    fclose(in);
    if (!error) {
        *length = w.length;
        if (w.data)
            return w.data;
        error_set(err, EINVAL, "backup '%s' is empty", path);
        return NULL;
    }
    byte_writer_free(&w);
    error_set(err, -error, "backup '%s' can't be read", path);
    return NULL;
}

uint8_t *backup_read(const char *path, const uint8_t **snapshot, size_t *length, struct error *err)
{
    size_t all = 0;
    uint8_t *bytes = read_all(path, &all, err);
    if (!bytes)
        return NULL;
    if (all < sizeof(magic) || memcmp(bytes, magic, sizeof(magic)) != 0)
        error_set(err, EINVAL, "'%s' isn't a backup (`ferry cluster backup` makes one)", path);
    else if (all >= BACKUP_HEAD && bytes_get_u32(bytes + 8) != BACKUP_VERSION)
        error_set(err, EPROTONOSUPPORT, "backup '%s' is of another version of ferry", path);
    else if (all < BACKUP_HEAD + BACKUP_TAIL ||
             bytes_get_u64(bytes + all - BACKUP_TAIL) != all - BACKUP_HEAD - BACKUP_TAIL ||
             bytes_get_u32(bytes + all - 4) != crc32c(0, bytes, all - 4))
        error_set(err, EBADMSG, "backup '%s' is damaged or cut short: take another one", path);
    else {
        *snapshot = bytes + BACKUP_HEAD;
        *length = all - BACKUP_HEAD - BACKUP_TAIL;
        return bytes;
    }
    free(bytes);
    return NULL;
}
