// Every guest's disks, and who holds which copy.

import { computed } from "@preact/signals";
import { guests } from "../data/store";
import type { FillProgress, VolumeView } from "../data/types";
import { duration, percent, size } from "../data/words";
import { GuestLink, Head, State } from "../parts/basic";
import { type Column, Table } from "../parts/table";
import { poolOf } from "./disks";
import { Pools } from "./pools";

const volumes = computed(() => guests.value.flatMap((guest) => guest.volumes));

const RANK = ["held", "degraded", "syncing", "creating", "in-sync"];
const host = (volume: VolumeView, role: string) => volume.replicas.find((replica) => replica.role === role);

const replica = (role: "primary" | "secondary") => (volume: VolumeView) => {
  const found = host(volume, role);
  if (!found) return <span class="faint">none</span>;
  return <State of={found.in_sync ? "in-sync" : "degraded"} text={found.host} />;
};

/** As in `, 20 s left`. */
const left = ({ done, total, bytes_per_second: speed = 0 }: FillProgress): string =>
  speed > 0 ? `, ${duration((total - done) / speed)} left` : "";

const COLUMNS: Column<VolumeView>[] = [
  { head: "Guest", cell: (volume) => <GuestLink name={volume.guest} />, by: (volume) => volume.guest },
  { head: "Disk", cell: (volume) => volume.disk, by: (volume) => volume.disk, wide: true },
  {
    head: "State",
    cell: (volume) => (
      <State
        of={volume.phase}
        text={
          volume.fill
            ? `filled ${Math.round(percent(volume.fill.done, volume.fill.total))}%${left(volume.fill)}`
            : volume.phase.replace("-", " ")
        }
      />
    ),
    by: (volume) => RANK.indexOf(volume.phase),
  },
  { head: "Primary", cell: replica("primary"), by: (volume) => host(volume, "primary")?.host ?? "" },
  { head: "Secondary", cell: replica("secondary"), by: (volume) => host(volume, "secondary")?.host ?? "" },
  { head: "Pool", cell: poolOf, by: poolOf, wide: true },
  { head: "Size", cell: (volume) => size(volume.size), by: (volume) => volume.size, right: true },
];

export function VolumesView() {
  return (
    <>
      <Head
        title="Volumes"
        note="Guests' disks. In sync: every write that a guest was told is safe is on both hosts. What can be done to a disk stands on its guest's page."
      />
      <Table
        label="volumes"
        items={volumes.value}
        columns={COLUMNS}
        id={(volume) => volume.id}
        text={(volume) =>
          `${volume.guest} ${volume.phase} ${poolOf(volume)} ${volume.replicas.map((replica) => replica.host).join(" ")}`.toLowerCase()
        }
        nothing="There is no volume: each guest brings its own."
      />
      <Pools />
    </>
  );
}
