#!/usr/bin/env bash
# Moves the receive processing of a network interface to CPUs without a shard.
#
#   tuning/irq.sh --interface eth0 --cpus 6,7            prints what it would write
#   tuning/irq.sh --interface eth0 --cpus 6,7 --apply    writes it (as root)
#
# --interface NAME  interface; may be given more than once
# --cpus LIST       CPUs for receive processing, such as 6,7 or 4-7; exclude them from [cores] pin
# --apply           write; without it nothing is changed
#
# Sets these CPUs for the interrupts of the interface (/proc/irq/N/smp_affinity_list) and for receive packet
# steering (/sys/class/net/NAME/queues/rx-*/rps_cpus), which helps devices with too few queues. A reboot
# reverts both. Stop irqbalance first, or it moves the interrupts back.
set -euo pipefail

fail() { echo "error: $*" >&2; exit 1; }
usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit "$1"; }

interfaces=() cpus="" apply=no
while [ $# -gt 0 ]; do
    case "$1" in
        --help | -h) usage 0 ;;
        --apply) apply=yes; shift; continue ;;
        --interface) interfaces+=("${2:-}") ;;
        --cpus) cpus="${2:-}" ;;
        *) usage 2 >&2 ;;
    esac
    shift $(($# > 1 ? 2 : 1))
done
[ ${#interfaces[@]} -gt 0 ] && [ -n "$cpus" ] || usage 2 >&2
[[ "$cpus" =~ ^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$ ]] || fail "--cpus $cpus: expected a list such as 6,7 or 4-7"

# Converts the list into the kernel's mask: hexadecimal words of 32 CPUs, highest first.
mask() {
    local words=() part cpu word top=0 text=""
    for part in ${cpus//,/ }; do
        for cpu in $(seq "${part%-*}" "${part#*-}"); do
            [ -d "/sys/devices/system/cpu/cpu$cpu" ] || fail "there is no CPU $cpu"
            word=$((cpu / 32))
            top=$((word > top ? word : top))
            words[word]=$((${words[word]:-0} | 1 << (cpu % 32)))
        done
    done
    [ ${#words[@]} -gt 0 ] || fail "--cpus $cpus names no CPU"
    for ((word = top; word >= 0; word--)); do
        printf -v part '%08x' "${words[word]:-0}"
        text+="${text:+,}$part"
    done
    echo "$text"
}

put() {
    echo "$1 > $2"
    if [ "$apply" = yes ]; then
        echo "$1" > "$2" || fail "cannot write $2: run as root; some interrupts cannot be moved"
    fi
}

steering="$(mask)"
pgrep -x irqbalance > /dev/null && echo "note: irqbalance is running and will move interrupts back" >&2
for interface in "${interfaces[@]}"; do
    [ -d "/sys/class/net/$interface" ] || fail "there is no interface $interface"
    for irq in "/sys/class/net/$interface/device/msi_irqs/"*; do
        [ -e "$irq" ] && put "$cpus" "/proc/irq/$(basename "$irq")/smp_affinity_list"
    done
    for queue in "/sys/class/net/$interface/queues/"rx-*; do
        put "$steering" "$queue/rps_cpus"
    done
done
[ "$apply" = yes ] || echo "nothing was changed: add --apply"
