#!/bin/sh
# ferry store against one member: what it prints, what it refuses, and the check of a directory.
# needs: nothing
. "$(dirname "$0")/lib.sh"

FERRY_STORE=unix:$work/client
export FERRY_STORE
member() {
    ferryd --store-only --data "$work/data" --name one --listen-peer "unix:$work/peer" --listen-client "$FERRY_STORE" \
        --log-level error --found &
    member_pid=$!
}
member_ends() {
    kill "$member_pid"
    wait "$member_pid"
}
member
trap 'kill -KILL "$member_pid" 2>/dev/null; clean_up' EXIT
await ferry store put first 1 || not_ok "a member comes up"

says "put" 0 "revision *" ferry store put key value
says "get" 0 "value" ferry store get key
says "get of nothing" 1 "*" ferry store get nothing
says "get of a range" 0 "first*1*key*value*" ferry store get --prefix "" --limit 10
says "a wrong key" 1 "ferry: store put: not a valid request*" ferry store put "" value

# txn NAME STATUS PATTERN JSON
txn() {
    printf '%s' "$4" >"$work/txn"
    says "$1" "$2" "$3" sh -c "ferry store txn --format json <'$work/txn' | jq -c .; exit 0"
}
txn "a transaction whose condition holds" 0 '*"succeeded":true*"value":"new"*' \
    '{"if":[{"key":"key","target":"value","is":"=","to":"value"}],"then":[{"put":"key","value":"new"},{"get":"key"}]}'
txn "and one whose doesn't" 0 '*"succeeded":false*"value":"new"*' \
    '{"if":[{"key":"key","target":"value","is":"=","to":"value"}],"then":[{"put":"key","value":"no"}],"else":[{"get":"key"}]}'
for wrong in '{"compare":[],"then":[{"put":"key","value":"no"}]}' \
    '{"if":{"key":"key","target":"value","is":"=","to":"x"},"then":[{"put":"key","value":"no"}]}' \
    '{"then":[{"put":"key","vlaue":"no"}]}' '{"then":{"put":"key","value":"no"}}' '{"then":[{"put":7}]}' '[]' 'x'; do
    txn "no transaction: $wrong" 0 "ferry: store txn: the standard input is no transaction*" "$wrong"
done
says "none of these has done anything" 0 "new" ferry store get key

revision=$(ferry store get key --format json | jq .revision)
check "compact" ferry store compact "$revision"
says "a compacted revision" 1 "*compacted away; the oldest revision is $revision" ferry store get key --revision 2
says "a watch of one" 1 "*compacted away; the oldest revision is $((revision + 1))" ferry store watch key --revision 2
ferry store watch key --revision $((revision + 1)) >"$work/events" &
watch_pid=$!
ferry store put key later >/dev/null
check "a watch prints what comes" await grep -q "put.*key.*later" "$work/events"
kill "$watch_pid"

lease=$(ferry store lease grant --ttl 60s --format json | jq .lease)
check "put with a lease" ferry store put leased value --lease "$lease"
says "renew" 0 "lease $lease ttl 60s" ferry store lease renew "$lease"
says "leases" 0 "*$lease*60*1*" ferry store lease list
check "revoke" ferry store lease revoke "$lease"
says "its key is gone" 1 "*" ferry store get leased
says "renew of none" 1 "*there is no such lease*" ferry store lease renew "$lease"

says "check of a running member" 1 "*a member uses it*" ferry store check "$work/data"
member_ends
says "check" 0 "member *log_last *" ferry store check "$work/data"
segment=$(find "$work/data" -name 'wal-*' | head -n 1)
printf 'damage' | dd of="$segment" bs=1 seek=4130 conv=notrunc 2>/dev/null
says "check of a damaged log" 1 "*$(basename "$segment")*offset 4096*" ferry store check "$work/data"
says "check changes nothing" 1 "*offset 4096*" ferry store check "$work/data"
says "a member doesn't start on it" 1 "*offset 4096*" ferryd --store-only --data "$work/data" --name one \
    --listen-peer "unix:$work/peer" --listen-client "$FERRY_STORE" --found
says "nobody there" 1 "ferry: store get: store: no connection to $FERRY_STORE*" ferry store get key --timeout 1s
finish
