// What the page knows of the cluster: exactly what the stream said last, and whether that is still current.

import { computed, signal } from "@preact/signals";
import { inOrder } from "./order";
import type {
  AlertView,
  ClusterStatus,
  EventView,
  GuestView,
  HostUsage,
  HostView,
  ImageView,
  IncidentView,
  JobView,
  NetworkView,
  PoolView,
  RuleView,
  SessionView,
  UserView,
} from "./types";

export interface Kinds {
  hosts: HostView;
  guests: GuestView;
  images: ImageView;
  networks: NetworkView;
  rules: RuleView;
  pools: PoolView;
  jobs: JobView;
  events: EventView;
  incidents: IncidentView;
  users: UserView;
  alerts: AlertView;
  usage: HostUsage;
  cluster: ClusterStatus;
}

type Map_<T> = ReadonlyMap<string, T>;
const none = <T>() => signal<Map_<T>>(new Map());

export const store = {
  hosts: none<HostView>(),
  guests: none<GuestView>(),
  images: none<ImageView>(),
  networks: none<NetworkView>(),
  rules: none<RuleView>(),
  pools: none<PoolView>(),
  jobs: none<JobView>(),
  events: none<EventView>(),
  incidents: none<IncidentView>(),
  users: none<UserView>(),
  alerts: none<AlertView>(),
  usage: none<HostUsage>(),
  cluster: none<ClusterStatus>(),
};

export const status = computed(() => store.cluster.value.get("cluster"));

export const byName = <T extends { name: string }>(a: T, b: T): number => inOrder(a.name, b.name);

export const hosts = computed(() => [...store.hosts.value.values()].sort(byName));
export const guests = computed(() => [...store.guests.value.values()]);

/** False while the guests are still coming in, which are many in a large cluster. */
export const isWhole = signal(true);

/** How many guests there are, run, and should run. Until all have come in, what the cluster's status says. */
export const tally = computed(() => {
  if (!isWhole.value) {
    const phases = status.value?.guests ?? {};
    const total = Object.values(phases).reduce((sum, count) => sum + count, 0);
    return { total, running: phases.running ?? 0, wanted: total - (phases.stopped ?? 0) };
  }
  let [running, wanted] = [0, 0];
  for (const guest of store.guests.value.values()) {
    if (guest.phase === "running") running += 1;
    if (guest.spec.power === "running") wanted += 1;
  }
  return { total: store.guests.value.size, running, wanted };
});

/** How many second copies each host holds. */
export const copiesOn = computed(() => {
  const copies = new Map<string, number>();
  for (const { secondary } of store.guests.value.values()) {
    if (secondary !== null) copies.set(secondary, (copies.get(secondary) ?? 0) + 1);
  }
  return copies;
});

/** The newest first; ids grow with time. */
export const events = computed(() => [...store.events.value.values()].sort((a, b) => (a.id < b.id ? 1 : -1)));
export const jobs = computed(() => [...store.jobs.value.values()].sort((a, b) => (a.id < b.id ? 1 : -1)));

/** The newest first; they are counted. */
export const incidents = computed(() => [...store.incidents.value.values()].sort((a, b) => b.id - a.id));
export const openIncidents = computed(() => incidents.value.filter((one) => one.incident.ended_at === null));

export const hasEnded = (job: JobView): boolean => ["done", "failed", "cancelled"].includes(job.state);
export const runningJobs = computed(() => jobs.value.filter((job) => !hasEnded(job)));

/** How the stream is. What is shown is current only while it is live. */
export type Link =
  | { state: "connecting" }
  | { state: "live" }
  | { state: "lost"; since: Date; why: string; retryAt: Date };
export const link = signal<Link>({ state: "connecting" });
export const isLive = computed(() => link.value.state === "live");

/** Who is signed in; null: nobody; undefined: not known yet. */
export const session = signal<SessionView | null | undefined>(undefined);

export interface Message {
  items: { [K in keyof Kinds]?: Record<string, Kinds[K]> };
  gone?: { [K in keyof Kinds]?: string[] };
  /** More of what there was at first is still to come. */
  more?: boolean;
}

function applyKind<K extends keyof Kinds>(kind: K, message: Message, fresh: boolean): void {
  const items = message.items[kind];
  const gone = message.gone?.[kind];
  if (!fresh && items === undefined && gone === undefined) return;
  const target = store[kind] as unknown as { value: Map_<Kinds[K]> };
  const next = fresh ? new Map<string, Kinds[K]>() : new Map(target.value);
  for (const id of gone ?? []) next.delete(id);
  for (const [id, item] of Object.entries(items ?? {})) next.set(id, item as Kinds[K]);
  target.value = next;
}

/** Takes a message in, all of it at once. A snapshot replaces everything that was known. */
export function apply(message: Message, isSnapshot: boolean): void {
  for (const kind of Object.keys(store) as (keyof Kinds)[]) applyKind(kind, message, isSnapshot);
  isWhole.value = message.more !== true;
}
