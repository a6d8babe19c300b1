// The picture of a large cluster: each host is a tile with a bar of how its guests are. What travels between hosts is
// an arc for some seconds, so that a migration or a failover is seen here, too.

import { useRef } from "preact/hooks";
import { inOrder } from "../data/order";
import { guests, hosts, isWhole } from "../data/store";
import type { GuestView, HostView } from "../data/types";
import { count } from "../data/words";
import { COLOURS, type Colour, Head, State } from "../parts/basic";
import { useCalm } from "../parts/calm";

const TILE_WIDTH = 74;
const TILE_HEIGHT = 34;
const TILE_GAP = 6;
const BAR_HEIGHT = 5;
const ZONE_PAD = 14;
const ZONE_HEAD = 30;
const ZONE_GAP = 14;
/** In one row of a zone. */
const TILES_MAX = 5;

const TRAVEL_MS = 6_000;
/** More at once are a blur. */
const TRAVELS_MAX = 60;

interface Tile {
  host: HostView;
  x: number;
  y: number;
}

interface Zone {
  name: string;
  x: number;
  y: number;
  width: number;
  height: number;
}

/** Zones side by side, as many as the window is wide for; each row as high as its highest zone. */
function lay(all: readonly HostView[], width: number): { zones: Zone[]; tiles: Map<string, Tile>; height: number } {
  const members = new Map<string, HostView[]>();
  for (const host of all) {
    const zone = members.get(host.host.zone);
    if (zone) zone.push(host);
    else members.set(host.host.zone, [host]);
  }
  const zones: Zone[] = [];
  const tiles = new Map<string, Tile>();
  let [x, y, rowHeight] = [0, 0, 0];
  for (const [name, inZone] of [...members].sort(([a], [b]) => inOrder(a, b))) {
    const columns = Math.min(
      TILES_MAX,
      inZone.length,
      Math.max(1, Math.floor((width - 2 * ZONE_PAD) / (TILE_WIDTH + TILE_GAP))),
    );
    const zoneWidth = columns * (TILE_WIDTH + TILE_GAP) - TILE_GAP + 2 * ZONE_PAD;
    const rows = Math.ceil(inZone.length / columns);
    const zoneHeight = ZONE_HEAD + rows * (TILE_HEIGHT + TILE_GAP) - TILE_GAP + ZONE_PAD;
    if (x > 0 && x + zoneWidth > width) [x, y, rowHeight] = [0, y + rowHeight + ZONE_GAP, 0];
    inZone.forEach((host, index) => {
      const [column, row] = [index % columns, Math.floor(index / columns)];
      const tileX = x + ZONE_PAD + column * (TILE_WIDTH + TILE_GAP);
      tiles.set(host.name, { host, x: tileX, y: y + ZONE_HEAD + row * (TILE_HEIGHT + TILE_GAP) });
    });
    zones.push({ name, x, y, width: zoneWidth, height: zoneHeight });
    rowHeight = Math.max(rowHeight, zoneHeight);
    x += zoneWidth + ZONE_GAP;
  }
  return { zones, tiles, height: y + rowHeight };
}

type Tally = Partial<Record<Colour, number>>;

function tallies(all: readonly GuestView[]): Map<string, Tally> {
  const found = new Map<string, Tally>();
  for (const guest of all) {
    if (guest.host === null) continue;
    let tally = found.get(guest.host);
    if (tally === undefined) {
      tally = {};
      found.set(guest.host, tally);
    }
    const colour = COLOURS[guest.phase] ?? "idle";
    tally[colour] = (tally[colour] ?? 0) + 1;
  }
  return found;
}

interface Travel {
  guest: string;
  from: string;
  to: string;
  until: number;
}

/** Who has changed its host in the last seconds. */
function useTravels(all: readonly GuestView[]): Travel[] {
  const places = useRef(new Map<string, string>());
  const travels = useRef<Travel[]>([]);
  const seen = useRef<readonly GuestView[]>();
  if (seen.current !== all) {
    const now = Date.now();
    const next = new Map<string, string>();
    const fresh: Travel[] = [];
    for (const { name, host } of all) {
      if (host === null) continue;
      const from = places.current.get(name);
      if (from !== undefined && from !== host) fresh.push({ guest: name, from, to: host, until: now + TRAVEL_MS });
      next.set(name, host);
    }
    const still = travels.current.filter(({ until }) => until > now);
    travels.current = [...still, ...fresh].slice(-TRAVELS_MAX);
    places.current = next;
    seen.current = all;
  }
  return travels.current;
}

export function ManyView({ width }: { width: number }) {
  const [allHosts, allGuests] = [useCalm(hosts.value), useCalm(guests.value)];
  const { zones, tiles, height } = lay(allHosts, width);
  const of = tallies(allGuests);
  const travels = useTravels(allGuests);
  return (
    <svg viewBox={`0 0 ${width} ${height}`} width={width} height={height} role="group" aria-label="Zones and hosts">
      {zones.map((zone) => (
        <g key={zone.name} class="zone">
          <rect x={zone.x} y={zone.y} width={zone.width} height={zone.height} rx="12" />
          <text x={zone.x + ZONE_PAD} y={zone.y + 20}>
            {zone.name}
          </text>
        </g>
      ))}
      {[...tiles.values()].map((tile) => (
        <TileBox key={tile.host.name} {...tile} tally={of.get(tile.host.name) ?? {}} />
      ))}
      {travels.map(({ guest, from, to }) => (
        <Arc key={guest} from={tiles.get(from)} to={tiles.get(to)} />
      ))}
    </svg>
  );
}

const ORDER: Colour[] = ["bad", "warning", "busy", "good", "idle", "unknown"];

function TileBox({ host, x, y, tally }: Tile & { tally: Tally }) {
  const duty = host.host.duty === "normal" ? "" : ` ${host.host.duty}`;
  const total = Object.values(tally).reduce((sum, part) => sum + part, 0);
  const inner = TILE_WIDTH - 12;
  let begin = x + 6;
  return (
    <a href={`#/hosts/${host.name}`} class={`host-box tile ${host.phase}${duty}`}>
      <title>{`${host.name}: ${duty.trim() || host.phase}, ${count(total, "guest")}`}</title>
      <rect x={x} y={y} width={TILE_WIDTH} height={TILE_HEIGHT} rx="6" />
      <text class="name" x={x + 6} y={y + 16}>
        {host.name.length > 11 ? `${host.name.slice(0, 10)}…` : host.name}
      </text>
      {ORDER.map((colour) => {
        const width = total === 0 ? 0 : (inner * (tally[colour] ?? 0)) / total;
        if (width === 0) return null;
        const at = begin;
        begin += width;
        return <rect key={colour} class={`part ${colour}`} x={at} y={y + 23} width={width} height={BAR_HEIGHT} />;
      })}
    </a>
  );
}

function Arc({ from, to }: { from: Tile | undefined; to: Tile | undefined }) {
  if (!from || !to) return null;
  const [x1, y1] = [from.x + TILE_WIDTH / 2, from.y + TILE_HEIGHT / 2];
  const [x2, y2] = [to.x + TILE_WIDTH / 2, to.y + TILE_HEIGHT / 2];
  return <path class="link filling" d={`M${x1} ${y1} Q${(x1 + x2) / 2} ${Math.min(y1, y2) - 60} ${x2} ${y2}`} />;
}

export function ManyHead() {
  const total = guests.value.length;
  return (
    <Head
      title="Topology"
      note={
        <span class="legend">
          <State of="running" text="run" />
          <State of="starting" text="on their way" />
          <State of="failed" text="need you" />
          <span>
            {isWhole.value ? `${count(total, "guest")} on ${count(hosts.value.length, "host")}` : "reading the guests…"}
          </span>
        </span>
      }
    />
  );
}
