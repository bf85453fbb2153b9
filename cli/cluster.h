// The subcommands of `ferry cluster` that have files of their own.
#pragma once

#include "cli/options.h"

extern const struct subcommand cluster_backup, cluster_init, cluster_restore, cluster_release,
    cluster_join, cluster_voter, cluster_client_certificate, cluster_clients, cluster_client_revoke,
    cluster_declare_dead;
