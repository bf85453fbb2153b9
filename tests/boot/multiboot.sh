#!/bin/sh
# needs: kvm
# Multiboot images of every shape boot, see what the loader promises, and end in each way there is.
work=$(mktemp -d "${TMPDIR:-/tmp}/ferry-multiboot.XXXXXX")
trap 'rm -rf "$work"' EXIT
export FERRY_RUNTIME_DIR="$work/run"
images=build/tests/boot
echo "an environment file" >"$work/module"

# boot WANTED-STATUS IMAGE OPTIONS...: runs it, keeps its output in $work/out.
boot() {
    wanted=$1 image=$2
    shift 2
    ferry run --kernel "$images/$image" --debug-exit --memory 64M "$@" >"$work/out" 2>&1 </dev/null
    status=$?
    [ "$status" = "$wanted" ] && return 0
    echo "# status $status instead of $wanted"
    return 1
}

# has TEXT...: each is part of the output.
has() {
    for text; do
        if ! grep -qF "$text" "$work/out"; then
            echo "# the output lacks: $text"
            return 1
        fi
    done
}

result() {
    if [ "$1" = 0 ]; then
        echo "ok - $2"
    else
        sed 's/^/# /' "$work/out"
        echo "not ok - $2"
        failed=1
    fi
}

failed=0
for image in multiboot32.elf multiboot64.elf multiboot.bin; do
    boot 33 $image --append "one two" --initrd "$work/module" &&
        has "command_line=\"$image one two\"" 'loader="ferry"' 'module="an environment file' \
            'memory start=0x100000 size=0x3f00000 type=0x1' 'result=pass'
    result $? "$image boots and finds the machine right"
done

boot 0 multiboot32.elf --append end=poweroff && has result=pass
result $? "a guest that enters S5 ends ferry with 0"

boot 0 multiboot32.elf --append end=reset --on-reboot exit && has result=pass
result $? "a guest that writes the reset register reboots"
exit $failed
