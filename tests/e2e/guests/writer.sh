#!/bin/sh
# Measures the disk, round after round: 4 KiB at a time, each flushed, through a file system; and 1 MiB at a time, in
# a row, past the page cache. `WRITES a b` tells how many hundredths of a second 5000 and 1024 of them took.
disk=/dev/vda
mke2fs "$disk" 65536 >/dev/null 2>&1
mkdir -p /mnt
mount -t ext4 -o sync "$disk" /mnt || exit 1
dd if=/dev/zero of=/mnt/small bs=4k count=5000 2>/dev/null

# The kernel's own clock, in hundredths of a second, into the variable that is named.
now() {
    read -r up _ </proc/uptime
    eval "$1=${up%.*}${up#*.}"
}

n=0
while :; do
    n=$((n + 1))
    now begin
    dd if=/dev/zero of=/mnt/small bs=4k count=5000 conv=notrunc 2>/dev/null || exit 1
    now between
    for pass in 1 2 3 4 5 6 7 8; do
        dd if=/dev/zero of="$disk" bs=1M count=128 seek=96 conv=notrunc oflag=direct 2>/dev/null || exit 1
    done
    now end
    echo "WRITES $((between - begin)) $((end - between))"
    echo "ACK $n"
done
