// All hosts, with what is given of each and what it does with it.

import { copiesOn, hosts, store } from "../data/store";
import type { HostView } from "../data/types";
import { cores, percent, size } from "../data/words";
import { Bar, Head, HostLink, State } from "../parts/basic";
import { type Column, Table } from "../parts/table";

const usageOf = (host: HostView) => (host.phase === "online" ? store.usage.value.get(host.name)?.total : undefined);

export const replicasOn = (name: string): number => copiesOn.value.get(name) ?? 0;

const COLUMNS: Column<HostView>[] = [
  { head: "Name", cell: (host) => <HostLink name={host.name} />, by: (host) => host.name },
  {
    head: "State",
    cell: (host) => (
      <>
        <State of={host.phase} />
        {host.host.duty !== "normal" && <span class="tag">{host.host.duty}</span>}
      </>
    ),
    by: (host) => host.phase,
  },
  { head: "Zone", cell: (host) => host.host.zone, by: (host) => host.host.zone, wide: true },
  { head: "Guests", cell: (host) => host.guests, by: (host) => host.guests, right: true },
  {
    head: "Second copies",
    cell: (host) => replicasOn(host.name),
    by: (host) => replicasOn(host.name),
    right: true,
    wide: true,
  },
  {
    head: "CPU",
    cell: (host) => {
      const usage = usageOf(host);
      if (!usage) return <span class="faint">not known</span>;
      return (
        <span class="cell-meter">
          <Bar share={percent(usage.cpu, host.report?.cpus ?? 1)} label={cores(usage.cpu)} />
          <small>{cores(usage.cpu)}</small>
        </span>
      );
    },
    by: (host) => usageOf(host)?.cpu ?? -1,
    wide: true,
  },
  {
    head: "Memory given",
    cell: (host) => {
      const total = host.report?.memory ?? 0;
      return (
        <span class="cell-meter">
          <Bar share={percent(host.memory_assigned, total)} label={`${size(host.memory_assigned)} of ${size(total)}`} />
          <small>
            {size(host.memory_assigned)} of {size(total)}
          </small>
        </span>
      );
    },
    by: (host) => percent(host.memory_assigned, host.report?.memory ?? 0),
    wide: true,
  },
];

export function HostsView() {
  return (
    <>
      <Head title="Hosts" note="The machines that run guests. “kennel cluster invite” lets one more in." />
      <Table
        label="hosts"
        items={hosts.value}
        columns={COLUMNS}
        id={(host) => host.name}
        text={(host) =>
          `${host.name} ${host.phase} ${host.host.duty} ${host.host.zone} ${host.host.tags.join(" ")} ${host.host.address}`.toLowerCase()
        }
        nothing="There is no host."
      />
    </>
  );
}
