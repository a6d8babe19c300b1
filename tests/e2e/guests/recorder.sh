#!/bin/sh
# Writes numbered records to the guest's disk, one after the other, each flushed before it is reported:
# after `ACK n` on the console record n must never be missing. After a start it says which record it finds
# to be the last of an unbroken row.
disk=/dev/vda
blocks=$(cat /sys/class/block/vda/size)

# All records are in the first 128 MiB; a large disk need not be read to its end.
last_record() {
    dd if="$disk" bs=64k count=2048 2>/dev/null | tr -d '\000' |
        awk '$1 != "record" || $2 != NR { exit } { n = NR } END { print n + 0 }'
}

n=$(last_record)
echo "RECORDER found $n"
while [ $((n + 2)) -lt "$blocks" ]; do
    n=$((n + 1))
    printf 'record %d\n' "$n" |
        dd of="$disk" bs=512 count=1 seek="$n" conv=notrunc,fsync,sync 2>/dev/null || exit 1
    echo "ACK $n"
done
echo "RECORDER full"
