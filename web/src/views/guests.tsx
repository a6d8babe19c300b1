// All guests: thousands of them, filtered and sorted as one types.

import { guests } from "../data/store";
import type { GuestView } from "../data/types";
import { size } from "../data/words";
import { GuestLink, Head, HostLink, State } from "../parts/basic";
import { type Column, Table } from "../parts/table";

export const addressesOf = (guest: GuestView): string[] =>
  guest.spec.nics.flatMap((nic) => (nic.address ? [nic.address.split("/")[0] ?? nic.address] : []));

export const imageOf = (guest: GuestView): string | null =>
  guest.volumes[0]?.image ?? (guest.spec.boot === "disk" ? null : guest.spec.boot.image);

/** The worst of its disks' states. */
export function copiesOf(guest: GuestView): { of: string; text: string } {
  const order = ["held", "degraded", "syncing", "creating", "in-sync"];
  const worst = order.find((phase) => guest.volumes.some((volume) => volume.phase === phase));
  if (!worst) return { of: "stopped", text: "no disk" };
  const mirrored = guest.volumes.some((volume) => volume.pool === "mirror");
  return { of: worst, text: worst === "in-sync" ? (mirrored ? "two copies" : "one copy") : worst };
}

const RANK = [
  "failed",
  "unknown",
  "paused",
  "waiting",
  "deleting",
  "stopping",
  "preparing",
  "starting",
  "running",
  "stopped",
];

const COLUMNS: Column<GuestView>[] = [
  { head: "Name", cell: (guest) => <GuestLink name={guest.name} />, by: (guest) => guest.name },
  { head: "State", cell: (guest) => <State of={guest.phase} />, by: (guest) => RANK.indexOf(guest.phase) },
  {
    head: "Host",
    cell: (guest) => (guest.host ? <HostLink name={guest.host} /> : "none"),
    by: (guest) => guest.host ?? "",
  },
  {
    head: "Second copy",
    cell: (guest) => guest.secondary ?? <span class="faint">none</span>,
    by: (guest) => guest.secondary ?? "",
    wide: true,
  },
  { head: "Disks", cell: (guest) => <State {...copiesOf(guest)} />, by: (guest) => copiesOf(guest).text, wide: true },
  {
    head: "Address",
    cell: (guest) => addressesOf(guest)[0] ?? <span class="faint">none</span>,
    by: (guest) => addressesOf(guest)[0] ?? "",
    wide: true,
  },
  {
    head: "Memory",
    cell: (guest) => size(guest.spec.memory),
    by: (guest) => guest.spec.memory,
    right: true,
    wide: true,
  },
  { head: "CPUs", cell: (guest) => guest.spec.vcpus, by: (guest) => guest.spec.vcpus, right: true, wide: true },
];

/** Each guest's text is put together once, and not for each key that is typed. */
const texts = new WeakMap<GuestView, string>();
function textOf(guest: GuestView): string {
  const known = texts.get(guest);
  if (known !== undefined) return known;
  const parts = [
    guest.name,
    guest.phase,
    guest.host,
    guest.secondary,
    imageOf(guest),
    ...guest.spec.tags,
    ...addressesOf(guest),
  ];
  const text = parts.filter(Boolean).join(" ").toLowerCase();
  texts.set(guest, text);
  return text;
}

export function GuestsView() {
  return (
    <>
      <Head title="Guests">
        <a class="button main" href="#/guests/new:">
          Create a guest
        </a>
      </Head>
      <Table
        label="guests"
        items={guests.value}
        columns={COLUMNS}
        id={(guest) => guest.name}
        text={textOf}
        nothing={
          <>
            There is no guest yet. <a href="#/guests/new:">Create the first one.</a>
          </>
        }
      />
    </>
  );
}
