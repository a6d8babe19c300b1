// Zones, hosts and guests as a picture. A guest that changes its host is seen to travel; so is a failover.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { inOrder } from "../data/order";
import { byName, hosts, isWhole, store } from "../data/store";
import type { GuestView, HostView } from "../data/types";
import { count } from "../data/words";
import { COLOURS, Head, State } from "../parts/basic";
import { go } from "../route";
import { ManyHead, ManyView } from "./topology-many";

const HOST_WIDTH_MIN = 232;
const HOST_WIDTH_MAX = 340;
const GAP = 20;
const ZONE_PAD = 18;
const ZONE_HEAD = 34;
const HOST_HEAD = 50;
const CELL_HEIGHT = 36;
const PER_ROW = 3;
const ROWS_MIN = 2;
/** With more of them each host is a tile. */
const GUESTS_MAX = 400;
const HOSTS_MAX = 60;

interface Spot {
  x: number;
  y: number;
}

interface Layout {
  hostWidth: number;
  /** Of a guest's mark, with the gap behind it. */
  cell: number;
  width: number;
  height: number;
  zones: { name: string; x: number; y: number; width: number; height: number }[];
  hosts: { host: HostView; x: number; y: number; height: number }[];
  primaries: Map<string, Spot>;
  secondaries: Map<string, Spot>;
}

const rowsOf = (n: number): number => Math.max(ROWS_MIN, Math.ceil(n / PER_ROW));

const INSET = 14;

function spot(x: number, y: number, index: number, cell: number): Spot {
  return { x: x + INSET + (index % PER_ROW) * cell, y: y + HOST_HEAD + Math.floor(index / PER_ROW) * CELL_HEIGHT };
}

/** Where everything stands. Guests keep their order by name, so that one that stays does not jump. */
function lay(all: HostView[], guests: GuestView[], width: number): Layout {
  const zones = grouped(all);
  // As wide as lets all zones stand side by side, within reason.
  const inner = width - zones.size * 2 * ZONE_PAD - (all.length - 1) * GAP;
  const hostWidth = Math.max(HOST_WIDTH_MIN, Math.min(HOST_WIDTH_MAX, Math.floor(inner / Math.max(1, all.length))));
  const cell = Math.floor((hostWidth - 2 * INSET + 6) / PER_ROW);
  const layout: Layout = {
    hostWidth,
    cell,
    width,
    height: 0,
    zones: [],
    hosts: [],
    primaries: new Map(),
    secondaries: new Map(),
  };
  let [x, y, rowHeight] = [0, 0, 0];
  for (const [zone, members] of [...zones].sort(([a], [b]) => inOrder(a, b))) {
    const perRow = Math.max(1, Math.min(members.length, Math.floor((width - 2 * ZONE_PAD + GAP) / (hostWidth + GAP))));
    const zoneWidth = perRow * (hostWidth + GAP) - GAP + 2 * ZONE_PAD;
    if (x > 0 && x + zoneWidth > width) [x, y, rowHeight] = [0, y + rowHeight + GAP, 0];
    let hostY = y + ZONE_HEAD;
    for (let index = 0; index < members.length; index += perRow) {
      const row = members.slice(index, index + perRow);
      const heights = row.map((host) => HOST_HEAD + rowsOf(on(guests, host).length) * CELL_HEIGHT + 12);
      const height = Math.max(...heights);
      row.forEach((host, column) => {
        const hostX = x + ZONE_PAD + column * (hostWidth + GAP);
        layout.hosts.push({ host, x: hostX, y: hostY, height });
        on(guests, host).forEach(([guest, role], at) => {
          (role === "primary" ? layout.primaries : layout.secondaries).set(guest.name, spot(hostX, hostY, at, cell));
        });
      });
      hostY += height + GAP;
    }
    const zoneHeight = hostY - y - GAP + ZONE_PAD;
    layout.zones.push({ name: zone, x, y, width: zoneWidth, height: zoneHeight });
    rowHeight = Math.max(rowHeight, zoneHeight);
    x += zoneWidth + GAP;
  }
  layout.height = y + rowHeight;
  return layout;
}

function grouped(all: HostView[]): Map<string, HostView[]> {
  const zones = new Map<string, HostView[]>();
  for (const host of all) zones.set(host.host.zone, [...(zones.get(host.host.zone) ?? []), host]);
  return zones;
}

/** What stands on a host: the guests that it runs, then the second copies that it holds. */
function on(guests: GuestView[], host: HostView): [GuestView, "primary" | "secondary"][] {
  const runs = guests.filter((guest) => guest.host === host.name);
  const holds = guests.filter((guest) => guest.secondary === host.name);
  return [
    ...runs.map((guest) => [guest, "primary"] as [GuestView, "primary"]),
    ...holds.map((guest) => [guest, "secondary"] as [GuestView, "secondary"]),
  ];
}

export function TopologyView() {
  const box = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(960);
  const many = store.guests.value.size > GUESTS_MAX || !isWhole.value || hosts.value.length > HOSTS_MAX;
  useLayoutEffect(() => {
    const element = box.current;
    if (!element) return;
    const observer = new ResizeObserver(() => setWidth(element.clientWidth));
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  const room = Math.max(width, HOST_WIDTH_MIN + 2 * ZONE_PAD);
  return (
    <>
      {many ? <ManyHead /> : <Head title="Topology" note={<Legend />} />}
      <div class="topology" ref={box}>
        {many ? <ManyView width={room} /> : <FewView width={room} />}
      </div>
    </>
  );
}

/** Each guest by itself. */
function FewView({ width }: { width: number }) {
  const [chosen, setChosen] = useState<string | null>(null);
  const guests = [...store.guests.value.values()].sort(byName);
  const homeless = guests.filter((guest) => !guest.host);
  const layout = lay(hosts.value, guests, width);
  return (
    <>
      <svg
        viewBox={`0 0 ${layout.width} ${layout.height}`}
        width={layout.width}
        height={layout.height}
        role="group"
        aria-label="Zones, hosts and guests"
      >
        {layout.zones.map((zone) => (
          <g key={zone.name} class="zone">
            <rect x={zone.x} y={zone.y} width={zone.width} height={zone.height} rx="14" />
            <text x={zone.x + ZONE_PAD} y={zone.y + 23}>
              {zone.name}
            </text>
          </g>
        ))}
        {layout.hosts.map(({ host, x, y, height }) => (
          <HostBox key={host.name} host={host} x={x} y={y} width={layout.hostWidth} height={height} />
        ))}
        {guests.map((guest) => (
          <Link key={`link ${guest.name}`} guest={guest} layout={layout} chosen={chosen === guest.name} />
        ))}
        {guests.map((guest) => (
          <Copy
            key={`copy ${guest.name}`}
            guest={guest}
            at={layout.secondaries.get(guest.name)}
            chosen={chosen === guest.name}
            cell={layout.cell}
          />
        ))}
        {guests.map((guest) => (
          <Pet
            key={guest.name}
            guest={guest}
            at={layout.primaries.get(guest.name)}
            cell={layout.cell}
            onChoose={setChosen}
          />
        ))}
      </svg>
      {homeless.length > 0 && <p class="message">Without a host: {homeless.map((guest) => guest.name).join(", ")}.</p>}
    </>
  );
}

function Legend() {
  return (
    <span class="legend">
      <State of="running" text="runs" />
      <State of="starting" text="on its way" />
      <State of="failed" text="needs you" />
      <span class="state">
        <span class="copy-mark" aria-hidden="true" /> second copy
      </span>
    </span>
  );
}

function HostBox({
  host,
  x,
  y,
  width,
  height,
}: {
  host: HostView;
  x: number;
  y: number;
  width: number;
  height: number;
}) {
  const duty = host.host.duty === "normal" ? "" : ` ${host.host.duty}`;
  return (
    <a href={`#/hosts/${host.name}`} class={`host-box ${host.phase}${duty}`}>
      <rect x={x} y={y} width={width} height={height} rx="10" />
      <circle cx={x + 20} cy={y + 24} r="5" />
      <text class="name" x={x + 34} y={y + 29}>
        {host.name}
      </text>
      <text class="note" x={x + width - 14} y={y + 29} text-anchor="end">
        {host.phase !== "online" ? host.phase : duty.trim() || (host.is_leader ? "leads" : count(host.guests, "guest"))}
      </text>
    </a>
  );
}

/** Cut where it would run out of its mark: some 6.4 units to a letter. */
const short = (name: string, cell: number): string => {
  const room = Math.floor((cell - 14) / 6.4);
  return name.length > room ? `${name.slice(0, room - 1)}…` : name;
};

/** A guest. When its place changes it glides there, and is marked for a moment. */
function Pet({
  guest,
  at,
  cell,
  onChoose,
}: {
  guest: GuestView;
  at: Spot | undefined;
  cell: number;
  onChoose: (name: string | null) => void;
}) {
  const [moved, setMoved] = useState(false);
  const before = useRef(guest.host);
  useEffect(() => {
    if (before.current === guest.host) return;
    const travelled = before.current !== null && guest.host !== null;
    before.current = guest.host;
    if (!travelled) return;
    setMoved(true);
    const timer = setTimeout(() => setMoved(false), 6_000);
    return () => clearTimeout(timer);
  }, [guest.host]);
  if (!at) return null;
  const leaving = guest.assignment?.handover ? " leaving" : "";
  const colour = COLOURS[guest.phase] ?? "idle";
  return (
    <a
      href={`#/guests/${guest.name}`}
      class={`pet ${colour}${moved ? " moved" : ""}${leaving}`}
      style={{ transform: `translate(${at.x}px, ${at.y}px)` }}
      data-guest={guest.name}
      data-host={guest.host}
      aria-label={`guest ${guest.name}, ${guest.phase}, on ${guest.host}`}
      onMouseEnter={() => onChoose(guest.name)}
      onMouseLeave={() => onChoose(null)}
      onFocus={() => onChoose(guest.name)}
      onBlur={() => onChoose(null)}
    >
      <title>{`${guest.name}: ${guest.phase}`}</title>
      <rect width={cell - 6} height={CELL_HEIGHT - 6} rx="7" />
      <text x={(cell - 6) / 2} y="19.500" text-anchor="middle">
        {short(guest.name, cell)}
      </text>
    </a>
  );
}

/** Its second copy, on another host. */
function Copy({ guest, at, chosen, cell }: { guest: GuestView; at: Spot | undefined; chosen: boolean; cell: number }) {
  if (!at) return null;
  const inSync = guest.volumes.every((volume) => volume.phase === "in-sync");
  const open = () => go(`/guests/${guest.name}`);
  return (
    // Not in the way of the keyboard: the guest itself is the same link.
    <g
      class={`copy${inSync ? "" : " not-in-sync"}${chosen ? " chosen" : ""}`}
      style={{ transform: `translate(${at.x}px, ${at.y}px)` }}
      onClick={open}
      aria-hidden="true"
    >
      <rect width={cell - 6} height={CELL_HEIGHT - 6} rx="7" />
      <text x={(cell - 6) / 2} y="19.500" text-anchor="middle">
        {short(guest.name, cell)}
      </text>
    </g>
  );
}

/** From a guest to its second copy, while it is looked at or filled. */
function Link({ guest, layout, chosen }: { guest: GuestView; layout: Layout; chosen: boolean }) {
  const [from, to] = [layout.primaries.get(guest.name), layout.secondaries.get(guest.name)];
  const filling = guest.volumes.some((volume) => volume.phase === "syncing");
  if (!from || !to || !(chosen || filling)) return null;
  const [x1, y1, x2, y2] = [
    from.x + layout.cell / 2 - 3,
    from.y + CELL_HEIGHT / 2 - 3,
    to.x + layout.cell / 2 - 3,
    to.y + CELL_HEIGHT / 2 - 3,
  ];
  const bend = Math.max(40, Math.abs(x2 - x1) / 4);
  return (
    <path
      class={filling ? "link filling" : "link"}
      d={`M${x1} ${y1} C${x1} ${y1 + bend} ${x2} ${y2 + bend} ${x2} ${y2}`}
    />
  );
}
