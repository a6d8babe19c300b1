#!/bin/sh
# Measures the disk, round after round: 4 KiB at a time, each flushed, through a file system; and 1 MiB at a time, in
# a row, past the page cache. `WRITES a b` tells how many seconds 200 and 64 of them took.
disk=/dev/vda
mke2fs "$disk" 65536 >/dev/null 2>&1
mkdir -p /mnt
mount -t ext4 -o sync "$disk" /mnt || exit 1
dd if=/dev/zero of=/mnt/small bs=4k count=200 2>/dev/null

seconds() {
    dd if=/dev/zero conv=notrunc "$@" 2>&1 | awk -F', ' '/copied/ { print $2 + 0 }'
}

n=0
while :; do
    n=$((n + 1))
    small=$(seconds of=/mnt/small bs=4k count=200)
    large=$(seconds of="$disk" bs=1M count=64 seek=96 oflag=direct)
    echo "WRITES $small $large"
    echo "ACK $n"
done
