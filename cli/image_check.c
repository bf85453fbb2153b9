#include "cli/image_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "vmm/boot/boot_image.h"
#include "vmm/doctor.h"

static int lives_at_cpl3(const struct machine_config *config, int fd, bool *answer,
                         struct error *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return error_set_errno(err, errno, "kernel '%s'", config->kernel);
    size_t size = S_ISREG(st.st_mode) ? (size_t)st.st_size : 0, done = 0;
    int r = boot_image_check_sizes(size, 0, 0, err);
    if (r < 0)
        return error_prefix(err, "kernel '%s'", config->kernel);
    uint8_t *bytes = malloc(size ? size : 1);
    if (!bytes)
        return error_set(err, ENOMEM, "kernel '%s': no memory to read it", config->kernel);
    while (done < size) {
        ssize_t n = pread(fd, bytes + done, size - done, (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break; // shorter than it was: the probe judges what is there
        done += (size_t)n;
    }
    struct boot_images images = {
        .kernel = bytes, .kernel_size = done, .kernel_name = config->kernel, .command_line = ""};
    struct boot_image_info info = {0};
    r = boot_image_probe(&images, &info, err);
    *answer = info.lives_at_cpl3;
    free(bytes);
    return r;
}

int image_check(const struct runtime_dir *dir, const struct machine_config *config, int kvm_fd,
                int kernel_fd, struct error *err)
{
    bool native = false, cpl3 = false;
    int r = doctor_ring0_is_native(kvm_fd, dir, &native, err);
    if (r || native)
        return r;
    r = lives_at_cpl3(config, kernel_fd, &cpl3, err);
    if (r || cpl3 || config->force)
        return r;
    if (!config->debug_exit)
        return error_set(err, ENOTSUP,
                         "kernel '%s': this host's KVM emulates ring 0 one instruction after "
                         "another, where a stock kernel crawls and then stops: use another host, "
                         "or --force to try (`ferry doctor` says more)",
                         config->kernel);
    fprintf(stderr, "ferry: run: warning: this host's KVM emulates ring 0: '%s' will crawl\n",
            config->kernel);
    log_warning("this host's KVM emulates ring 0");
    return 0;
}
