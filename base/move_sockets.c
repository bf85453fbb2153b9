#include "base/move_sockets.h"

#include <string.h>
#include <sys/socket.h>

// Of "tcp://10.0.0.1:77" or "tls://[fd00::1]:77": only version 6 has more than the port's colon.
static int family_of(const char *to)
{
    const char *place = strstr(to, "://");
    const char *colon = strchr(place ? place + 3 : to, ':');
    return colon && strchr(colon + 1, ':') ? AF_INET6 : AF_INET;
}

int move_sockets_add(const struct control_client *client, json_t *params, const char *to,
                     unsigned streams, int *fds, unsigned *count, struct error *err)
{
    if (!control_client_has_feature(client, "migrate-sockets"))
        return 0;
    json_t *sockets = json_array();
    for (unsigned i = 0; i < streams + MOVE_SOCKETS_BESIDE_DATA; i++) {
        int fd = socket(family_of(to), SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0) {
            json_decref(sockets);
            return error_set_errno(err, errno, "making a socket for '%s'", to);
        }
        json_array_append_new(sockets, json_pack("{s:i}", "fd", (int)*count));
        fds[(*count)++] = fd;
    }
    return json_object_set_new(params, "sockets", sockets) < 0
               ? error_set_errno(err, ENOMEM, "naming the sockets for '%s'", to)
               : 0;
}
