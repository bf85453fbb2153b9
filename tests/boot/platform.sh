#!/bin/sh
# needs: linux
# Stock Linux finds the platform right: its log has no complaint about ACPI, PCI, serial port or clock, every device has
# its driver, and the clock's alarm interrupt comes.
work=$(mktemp -d "${TMPDIR:-/tmp}/ferry-platform.XXXXXX")
trap 'rm -rf "$work"' EXIT
export FERRY_RUNTIME_DIR="$work/run"
failed=0

result() {
    if [ "$1" = 0 ]; then
        echo "ok - $2"
    else
        echo "not ok - $2"
        failed=1
    fi
}

# What runs in the guest. Waiting for the alarm has an end: the guest would hang otherwise.
cat >"$work/script" <<'SCRIPT'
dmesg | sed 's/^/log: /'
echo "serial: $(grep -c 16550A /proc/tty/driver/serial)"
echo "interrupts: $(grep -cE 'IO-APIC.*(ttyS0|rtc0|acpi)' /proc/interrupts)"
echo "ioports: $(grep -cE '3f8-03ff : serial|0070-0071 : rtc0|0608-060b : ACPI PM_TMR' /proc/ioports)"
echo "window: $(grep -c 'PCI Bus 0000:00' /proc/iomem)"
before=$(awk '/rtc0/ {print $2 + $3}' /proc/interrupts)
echo 0 >/sys/class/rtc/rtc0/wakealarm
echo +2 >/sys/class/rtc/rtc0/wakealarm
n=0
while [ $n -lt 60 ] && [ "$(awk '/rtc0/ {print $2 + $3}' /proc/interrupts)" = "$before" ]; do
    sleep 1
    n=$((n + 1))
done
echo "alarm: $(($(awk '/rtc0/ {print $2 + $3}' /proc/interrupts) > before))"
SCRIPT
ferry run --kernel build/linux/vmlinuz --initrd build/linux/initramfs.cpio.gz --memory 384M --cpus 2 \
    --append "console=ttyS0 quiet ferry.mode=cmd64=$(base64 "$work/script" | tr -d '\n')" \
    >"$work/out" 2>&1 </dev/null
result $? "Linux boots, runs a script and switches itself off"

complaints=$(grep -aE '^log: .*(ACPI|acpi|PCI|pci |pnp|serial|8250|ttyS|rtc|i8042|IOAPIC)' "$work/out" |
    grep -aiE 'error|warn|bug|fail|invalid|unable|can.t|conflict|unexpected|bogus|broken|mismatch|lost' |
    grep -av 'use "pci=nocrs" and report a bug')
[ -z "$complaints" ] || echo "$complaints" | sed 's/^/# /'
[ -z "$complaints" ] && grep -aq '^log: .*ACPI: Interpreter enabled' "$work/out"
result $? "its log has no complaint about the platform"

for line in "serial: 1" "interrupts: 3" "ioports: 3" "window: 1" "alarm: 1"; do
    grep -aqF "$line" "$work/out" || {
        grep -a "^${line%%:*}:" "$work/out" | sed 's/^/# found /'
        false
    }
    result $? "the guest says $line"
done
[ $failed = 0 ] || tail -n 30 "$work/out" | sed 's/^/# /'
exit $failed
