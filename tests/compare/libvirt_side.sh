#!/bin/sh
# libvirt_side.sh FOLDER HOSTNAME: a libvirt daemon with everything of its own in FOLDER, so that two of them on one host
# are two hosts to each other. To be run as root, as the first process of new mount, UTS and PID namespaces:
#
#   unshare --mount --uts --pid --fork --kill-child --mount-proc tests/compare/libvirt_side.sh FOLDER NAME
#
# All that it started ends with it. FOLDER/run/libvirt/libvirt-sock is its socket, reached from outside too. Certificates
# of migrations by TLS are looked for in FOLDER/tls.
set -e
folder=$1
hostname "$2"
for place in etc/libvirt run/libvirt var/lib/libvirt var/log/libvirt; do
    mkdir -p "/$place" "$folder/$place"
    mount --bind "$folder/$place" "/$place"
done
# What libvirt learns of QEMU by asking it takes seconds: kept between runs, by FOLDER/cache, which may be a link.
mkdir -p /var/cache/libvirt
mount --bind "$(readlink -f "$folder/cache")" /var/cache/libvirt
# It wants this user even if all runs as root.
{ cat /etc/passwd && echo "libvirt-qemu:x:64055:64055::/nonexistent:/bin/false"; } >"$folder/passwd"
{ cat /etc/group && echo "libvirt-qemu:x:64055:"; } >"$folder/group"
mount --bind "$folder/passwd" /etc/passwd
mount --bind "$folder/group" /etc/group

mkdir -p "$folder/tls" # it must be there
cat >/etc/libvirt/qemu.conf <<END
stdio_handler = "file"
security_driver = "none"
user = "root"
group = "root"
cgroup_controllers = [ ]
namespaces = [ ]
remember_owner = 0
migrate_tls_x509_cert_dir = "$folder/tls"
migrate_tls_x509_verify = 1
END
cat >/etc/libvirt/libvirtd.conf <<END
host_uuid = "$(cat /proc/sys/kernel/random/uuid)"
auth_unix_rw = "none"
auth_unix_ro = "none"
log_outputs = "3:file:$folder/log"
END
libvirtd -p /run/libvirt/libvirtd.pid &
wait $!
