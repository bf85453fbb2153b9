#!/bin/sh
# A TCP connection with stock Linux, over taps of two hosts, goes on while the machine moves there and back.
# In the lab it takes a minute or two, so it is a job of the soak.
. "$(dirname "$0")/lib.sh"
. tests/migrate/hosts.sh

if ! hosts_can; then
    skip "a connection over a move" "no network namespaces here"
    exit 0
fi
hosts_start

cat >"$work/script" <<'SCRIPT'
echo "listening end"
nc -l -p 7 -e cat
echo "connection closed end"
SCRIPT
at a ferry run web --detach --kernel build/linux/vmlinuz --initrd build/linux/initramfs.cpio.gz --memory 256M --net tap=tap0 \
    --append "console=ttyS0 quiet ferry.ip=10.9.0.2/24 ferry.mode=cmd64=$(base64 "$work/script" | tr -d '\n')" >/dev/null
check "Linux listens" await grep -q 'listening end' "$work/a/web/console.log"

# Ten lines a second, each of which comes back.
touch "$work/talking" "$work/received"
{
    n=0
    while [ -e "$work/talking" ]; do
        n=$((n + 1))
        echo "line $n"
        echo "line $n" >>"$work/sent"
        sleep 0.1
    done
} | on s socat -t 60 - TCP:10.9.0.2:7,retry=20 >"$work/received" &
talker=$!
more_lines() { [ "$(wc -l <"$work/received")" -gt "$1" ]; }
check "lines come back" await more_lines 5
for way in "a b" "b a"; do
    from=${way% *} to=${way#* }
    receive_at "$to"
    check "it moves from $from to $to" at "$from" ferry migrate web "$place" --downtime 2s
    lines=$(wc -l <"$work/received")
    check "the connection goes on there" await more_lines $((lines + 10))
done
rm "$work/talking"
wait $talker
check "each line came back, in order" cmp "$work/sent" "$work/received"
check "and the connection was closed" await grep -q 'connection closed end' "$work/a/web/console.log"
echo "# $(wc -l <"$work/received") lines"
finish
