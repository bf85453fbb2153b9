// A new cluster out of a backup: its first member, in an empty directory. It has another id, so
// that no member of the old one is let in; the next generation, whose epochs are larger than all
// that were ever given; no hosts, and no owners of machines. It is held: nothing starts until a
// person says
// (`ferry cluster release`) that nothing of the old cluster runs any more.
#pragma once

#include "cluster/member/member.h"

// 0 or a sentence; then the directory is as if nothing had been tried, but for certificates.
int restore_cluster(const struct member_options *options, const char *path, struct error *err);
