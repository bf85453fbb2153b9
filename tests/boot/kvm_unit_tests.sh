#!/bin/sh
# The images of kvm-unit-tests, unchanged, where somebody has built them: KVM_UNIT_TESTS=DIR names a folder with *.flat
# and, if there is one, unittests.cfg (file, smp and -append of each test are taken from it). An `environ` file there is
# handed over as the initrd, as that suite's own runner does. Nothing of that suite is in this project.
# needs: linux
. "$(dirname "$0")/../cli/lib.sh"

if [ -z "${KVM_UNIT_TESTS:-}" ]; then
    skip "kvm-unit-tests" "KVM_UNIT_TESTS=DIR wasn't given"
    exit 0
fi

# "name|file|cpus|arguments" a line, from unittests.cfg, or one for each image.
list_tests() {
    if [ ! -f "$KVM_UNIT_TESTS/unittests.cfg" ]; then
        for image in "$KVM_UNIT_TESTS"/*.flat; do
            name=$(basename "$image" .flat)
            echo "$name|$name.flat|1|"
        done
        return
    fi
    awk '
        function flush() { if (file != "") print name "|" file "|" cpus "|" arguments }
        /^\[/ { flush(); name = substr($0, 2, length($0) - 2); file = ""; cpus = 1; arguments = "" }
        /^file *=/ { sub(/^[^=]*= */, ""); file = $0 }
        /^smp *=/ { sub(/^[^=]*= */, ""); cpus = $0 ~ /^[0-9]+$/ ? $0 : 2 }
        /-append/ { arguments = $0; sub(/.*-append +/, "", arguments); gsub(/["\047]/, "", arguments) }
        END { flush() }' "$KVM_UNIT_TESTS/unittests.cfg"
}

found=0
while IFS='|' read -r name file cpus arguments; do
    [ -f "$KVM_UNIT_TESTS/$file" ] || continue
    found=$((found + 1))
    set -- --kernel "$KVM_UNIT_TESTS/$file" --debug-exit --memory 256M --cpus "$cpus"
    [ -f "$KVM_UNIT_TESTS/environ" ] && set -- "$@" --initrd "$KVM_UNIT_TESTS/environ"
    [ -n "$arguments" ] && set -- "$@" --append "$arguments"
    timeout 300 ferry run kut "$@" >"$work/out" 2>&1 </dev/null
    status=$?
    case $status in
    1) ok "kvm-unit-tests $name" ;;
    155) skip "kvm-unit-tests $name" "the image itself says so" ;; # (77 << 1) | 1
    *) not_ok "kvm-unit-tests $name" "status $status" "$(tail -5 "$work/out")" ;;
    esac
done <<LIST
$(list_tests)
LIST
[ "$found" -gt 0 ] || not_ok "kvm-unit-tests" "no image in $KVM_UNIT_TESTS"
[ "$failures" -eq 0 ]
