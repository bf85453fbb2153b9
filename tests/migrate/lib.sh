# What the migration tests share. Source it. `at HOST COMMAND...` runs a command on one of the "hosts", which are
# runtime directories of this one: a and b.
. "$(dirname "$0")/../cli/lib.sh"

at() {
    FERRY_RUNTIME_DIR=$work/$1
    shift
    "$@"
}

# Whether that process is one of this test's: where processes come and go quickly, a number that was noted a while ago may
# be somebody else's by now.
is_ours() { tr '\0' '\n' 2>/dev/null <"/proc/$1/environ" | grep -q "^FERRY_RUNTIME_DIR=$work/"; }

clean_up() {
    for lock in "$work"/[ab]/*/lock; do
        [ -e "$lock" ] || continue
        name=${lock%/lock} host=${lock#"$work/"}
        at "${host%%/*}" ferry kill "${name##*/}" >/dev/null 2>&1
    done
    for pid in $(cat "$work/receivers" 2>/dev/null); do
        is_ours "$pid" || continue
        kill -CONT "$pid" 2>/dev/null
        kill -KILL "$pid" 2>/dev/null
    done
    rm -rf "$work"
}

# ---- certificates ----

key="ec -pkeyopt ec_paramgen_curve:P-256"
make_ca() {
    # shellcheck disable=SC2086 # several words
    openssl req -x509 -newkey $key -nodes -days 2 -subj "/CN=$1" -keyout "$work/$1.key" -out "$work/$1.pem" 2>/dev/null
}
make_certificate() { # NAME CA
    # shellcheck disable=SC2086
    openssl req -newkey $key -nodes -subj "/CN=$1" -keyout "$work/$1.key" -out "$work/$1.csr" 2>/dev/null
    printf 'subjectAltName=DNS:%s.example\n' "$1" >"$work/$1.ext"
    openssl x509 -req -in "$work/$1.csr" -CA "$work/$2.pem" -CAkey "$work/$2.key" -CAcreateserial -days 2 \
        -extfile "$work/$1.ext" -out "$work/$1.pem" 2>/dev/null
}
# The options of a side: certificate and CA.
tls() { echo "--tls-cert $work/$1.pem --tls-key $work/$1.key --tls-ca $work/${2:-ca}.pem"; }

# ---- moves ----

receive_scheme=tcp receive_address=127.0.0.1
# receive HOST [OPTION]...: $place is where it listens, $receiver its process, $heard what it says.
receive() {
    receive_host=$1
    shift
    heard=$(mktemp "$work/heard.XXXXXX")
    FERRY_RUNTIME_DIR=$work/$receive_host ferry receive --listen "$receive_scheme://$receive_address:0" "$@" >"$heard" 2>&1 </dev/null &
    receiver=$!
    echo $receiver >>"$work/receivers" # a file, as this may run in a subshell
    await grep -q '^listening at ' "$heard"
    place=$(sed -n 's/^listening at //p' "$heard")
}

# The parts of a pattern guest's range, "gpa pages" a line, from what it said where it was started.
find_parts() {
    await grep -q 'pattern ready' "$work/$1/$2/console.log" || return
    sed -n 's/.*pattern cpu=[0-9]* gpa=\(0x[0-9a-f]*\) pages=\([0-9]*\).*/\1 \2/p' "$work/$1/$2/console.log" |
        tr -d '\r' >"$work/parts.$2"
}

# read_pages HOST NAME: "part page first-16-bytes" for each page of the parts.
read_pages() {
    part=0
    while read -r gpa pages; do
        awk -v base="$((gpa))" -v pages="$pages" 'BEGIN { for (i = 0; i < pages; i++)
            printf "{\"id\":%d,\"method\":\"memory.read\",\"params\":{\"gpa\":%d,\"length\":16}}\n", i, base + i * 4096 }' |
            socat -t 60 - "UNIX-CONNECT:$work/$1/$2/control.sock" |
            jq -r --arg part "$part" --arg base "$((gpa))" \
                'select(.result.data) | [$part, $base, .id, .result.data] | join(" ")'
        part=$((part + 1))
    done <"$work/parts.$2"
}

# What is wrong in the list FILE of machine NAME: a part may have one edge, of height one; each page names its own address.
pattern_errors() {
    awk -v wanted="$(awk '{ n += $2 } END { print n + 0 }' "$work/parts.$2")" '
        function nibble(c) { return index("0123456789abcdef", c) - 1 }
        function byte(s, at) { return 16 * nibble(substr(s, at, 1)) + nibble(substr(s, at + 1, 1)) }
        {
            count = byte($4, 1)
            if ($3 == 0) edges = 0
            else if (count != last) {
                if ((last - count + 256) % 256 != 1 || ++edges > 1)
                    print "part " $1 ", page " $3 ": " count " after " last ", edge number " edges
            }
            last = count
            address = $2 + $3 * 4096
            for (i = 0; i < 8; i++) {
                if (byte($4, 17 + 2 * i) != address % 256) print "part " $1 ", page " $3 ": another page is here"
                address = int(address / 256)
            }
        }
        END { if (NR != wanted) print NR " pages were read, not " wanted }' "$1"
}

# The paused guest's memory holds the pattern, and stands still.
pattern_holds() {
    read_pages "$1" "$2" >"$work/pages.$2"
    pattern_errors "$work/pages.$2" "$2" >"$work/errors.$2"
    read_pages "$1" "$2" >"$work/again.$2"
    cmp -s "$work/pages.$2" "$work/again.$2" || echo "the memory of a paused machine changes" >>"$work/errors.$2"
    head -5 "$work/errors.$2"
    [ ! -s "$work/errors.$2" ]
}

# A running guest's memory changes.
differs() {
    read_pages "$1" "$2" >"$work/now.$2"
    ! cmp -s "$work/before.$2" "$work/now.$2"
}
moves_on() {
    read_pages "$1" "$2" >"$work/before.$2"
    await differs "$1" "$2"
}

# Nothing of machine NAME is left on HOST.
nothing_left() {
    [ ! -e "$work/$1/$2" ] && return
    ls -a "$work/$1/$2"
    return 1
}
gone() { ! is_ours "$1"; }
phase() { at "$1" ferry migrate "$2" --status --format json | jq -r .phase; }
phase_is() { [ "$(phase "$1" "$2")" = "$3" ]; }
is_at() { at "$1" is_state "$2" "$3"; }

other() { [ "$1" = a ] && echo b || echo a; }

# round_trips VCPUS MOVES [SIZE]: back and forth: no page is lost, none comes twice. A full-speed writer, so that at each
# switch all of its range is dirty. Over as many connections as $stream_counts says, in turns; by TLS with
# receive_scheme=tls and the options of hosts a and b in $options_a and $options_b. The memory is looked at after each
# $check_every-th move: a page that was lost stays one behind the others, and shows later too.
stream_counts="4 1" options_a='' options_b='' check_every=1
options_of() { [ "$1" = a ] && echo "$options_a" || echo "$options_b"; }
streams_of() { # move NUMBER
    # shellcheck disable=SC2086 # a list
    set -- "$1" $stream_counts
    shift $((1 + $1 % ($# - 1)))
    echo "$1"
}
round_trips() {
    cpus=$1 moves=$2 name=pattern$1
    at a run "$name" "pattern size=${3:-256K} check=1" --cpus "$cpus" >/dev/null || return
    find_parts a "$name" || return
    here=a
    for number in $(seq "$moves"); do
        there=$(other $here)
        # shellcheck disable=SC2046 # several words
        receive "$there" $(options_of "$there")
        # shellcheck disable=SC2046
        if ! at $here ferry migrate "$name" "$place" --streams "$(streams_of "$number")" --downtime 3s \
            $(options_of $here) >"$work/said" 2>&1; then
            cat "$work/said" "$heard"
            for host in a b; do sed "s/^/$host: /" "$work/$host/$name/log" | tail -8; done
            return 1
        fi
        grep ' moved to ' "$work/said" >>"$work/moves"
        if [ $((number % check_every)) -ne 0 ] && [ "$number" -lt "$moves" ]; then
            here=$there
            continue
        fi
        at "$there" ferry pause "$name" >/dev/null || return
        pattern_holds "$there" "$name" || { echo "after move $number"; return 1; }
        at "$there" ferry resume "$name" >/dev/null
        moves_on "$there" "$name" || { echo "it doesn't run after move $number"; return 1; }
        at $here ferry ps -a --format json | jq -e --arg name "$name" '.[] | select(.name == $name) | .state != "running"' \
            >/dev/null || { echo "it still runs where it came from"; return 1; }
        here=$there
    done
    at $here ferry kill "$name" >/dev/null
}
