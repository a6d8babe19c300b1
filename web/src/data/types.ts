// What the API says, as far as the page shows it. Names and meanings are those of docs/openapi.json.

export type GuestPhase =
  | "waiting"
  | "preparing"
  | "starting"
  | "running"
  | "paused"
  | "stopping"
  | "stopped"
  | "failed"
  | "unknown"
  | "deleting";
export type HostPhase = "online" | "lost" | "joining";
export type Duty = "normal" | "draining" | "maintenance";
export type VolumePhase = "in-sync" | "held" | "degraded" | "syncing" | "creating";
export type Pool = "local" | "mirror" | "shared";
export type JobState = "waiting" | "running" | "undoing" | "done" | "failed" | "cancelled";
export type Severity = "info" | "warning" | "error";

export interface ReplicaView {
  host: string;
  role: "primary" | "secondary";
  in_sync: boolean;
}

export type FillHow = "changed" | "compared" | "whole";

/** How far a replica is filled. Bytes. */
export interface FillProgress {
  done: number;
  total: number;
  how?: FillHow | null;
  /** Why by that; without a full stop. */
  why?: string;
  /** Over the network so far. */
  sent?: number | null;
  /** 0: not known yet. */
  bytes_per_second?: number;
}

export interface Filled {
  how: FillHow;
  why: string;
  sent: number;
  took_ms: number;
  at: string;
}

export interface VolumeView {
  id: string;
  guest: string;
  disk: number;
  pool: Pool;
  /** Which one, where there may be several. */
  pool_name?: string | null;
  size: number;
  image: string | null;
  phase: VolumePhase;
  fill?: FillProgress | null;
  degraded_since?: string | null;
  /** Why it has no other secondary yet; told of one volume only. */
  healing?: string | null;
  filled?: Filled | null;
  replicas: ReplicaView[];
}

export interface GuestSpec {
  created_at: string;
  vcpus: number;
  memory: number;
  boot: "disk" | { image: string };
  nics: { network: string; mac: string; address: string | null }[];
  power: "running" | "stopped";
  priority: number;
  preferred_host: string | null;
  tags: string[];
  pinned: boolean;
  start_after: string[];
  stop_timeout_s: number;
  health?: HealthSpec;
}

/** As a word, or with what belongs to it. */
export type HealthCheck =
  | "none"
  | "basic"
  | "agent"
  | "disk"
  | { tcp: { port: number } }
  | { http: HttpCheck }
  | { command: { command: string[] } };

export interface HttpCheck {
  port: number;
  path: string;
  tls?: boolean;
  /** Null: any below 400. */
  status?: number | null;
  text?: string | null;
  /** Null: its address. */
  name?: string | null;
  any_certificate?: boolean;
}

export interface HealthSpec {
  check: HealthCheck;
  interval_s: number;
  timeout_s: number;
  failures: number;
  grace_s: number;
  on_unhealthy: "restart" | "alarm";
  restart_limit: number;
}

export interface HealthReport {
  state: "off" | "unknown" | "starting" | "healthy" | "restarting" | "unhealthy";
  message: string | null;
  since: string;
  restarts: { at: string; host: string; how: "in-place" | "elsewhere"; why: string }[];
}

export interface MigrationReport {
  to: string;
  phase: "memory" | "switch-over" | { failed: string };
  remaining: number;
  total: number;
}

export interface GuestView {
  name: string;
  id: string;
  phase: GuestPhase;
  host: string | null;
  secondary: string | null;
  message: string | null;
  volumes: VolumeView[];
  spec: GuestSpec;
  assignment: { host: string; epoch: number; why: string; handover?: { to: string } | null } | null;
  report: {
    since: string;
    accelerator: string | null;
    state: string;
    migration?: MigrationReport | null;
    health?: HealthReport | null;
  } | null;
}

export interface HostView {
  name: string;
  phase: HostPhase;
  is_leader: boolean;
  guests: number;
  memory_assigned: number;
  host: {
    address: string;
    zone: string;
    tags: string[];
    joined_at: string;
    store_member: boolean;
    duty: Duty;
    settings: HostSettings;
  };
  session: { started_at: string } | null;
  fence_devices: Record<string, FenceDevice>;
  fence: Fence | null;
  report: {
    kennel_version: string;
    qemu_version: string;
    kernel_version: string;
    cpus: number;
    memory: number;
    disk: number;
    accelerator: { kind: string; why: string };
    images: string[];
    problems: string[];
    uplinks: Record<string, string>;
    compatibility?: { cpu_level: CpuLevel | null; cpu_vendor: string | null };
  } | null;
}

export interface FenceDevice {
  agent: string;
  options: Record<string, string>;
  /** The names of what else it is told. */
  secrets: string[];
  level: number;
  delay_s: number;
}

/** That a host's power is to be taken, or was. */
export interface Fence {
  asked_by: string;
  why: string;
  tries: number;
  problem: string | null;
  off: { at: string; devices: string[]; seen_by: string } | null;
  /** Its own watchdog has reset it. */
  reset: { at: string; device: string } | null;
}

export interface FenceTestView {
  asked_by: string;
  devices: { name: string; powered: boolean | null; problem: string | null }[];
}

export type CpuLevel = "x86-64-v1" | "x86-64-v2" | "x86-64-v3" | "x86-64-v4";

export interface HostSettings {
  /** Bytes that it keeps for itself. */
  reserved_memory: number;
  reserved_disk: number;
  /** Thousandths of a core. */
  reserved_millicores: number;
  /** 100 is a standard host's. */
  speed_percent: number;
  /** Null: as the whole cluster's settings say. */
  memory_percent: number | null;
  vcpus_percent: number | null;
}

export interface JobStep {
  name: string;
  state: "waiting" | "running" | "done" | "failed" | "undone" | "skipped";
  note: string | null;
}

export interface JobView {
  id: string;
  what: string;
  state: JobState;
  /** Between 0 and 1. */
  progress: number;
  message: string | null;
  warnings?: string[];
  spec: { created_at: string; requested_by: string; cancel: boolean; kind: Record<string, unknown> };
  report: { steps: JobStep[]; error: string | null; ended_at: string | null } | null;
}

export interface EventView {
  id: string;
  at: string;
  severity: Severity;
  kind: string;
  subject: string;
  seen_by: string;
  message: string;
}

export type Weight = "warning" | "critical";

/** How long each part of a guest's failover took, milliseconds. */
export interface FailoverParts {
  prove_ms: number | null;
  decide_ms: number | null;
  start_ms: number | null;
  down_ms: number | null;
}

export interface IncidentView {
  id: number;
  /** One sentence without a full stop. */
  headline: string;
  /** null: it is open. */
  lasted_ms: number | null;
  incident: {
    subject: string;
    began_at: string;
    ended_at: string | null;
    weight: Weight;
    open_because: string[];
    more_guests: boolean;
    entries: { at: string; event: string; severity: Severity; seen_by: string; message: string }[];
    more_entries: boolean;
  };
  guests: { guest: string; meaning: string; parts: FailoverParts }[];
}

/** Somebody who is told of incidents. */
export interface AlertView {
  name: string;
  target: {
    way:
      | { webhook: { url: string } }
      | { mail: { to: string; sender: string; server: string; port: number; tls: string; user: string | null } };
    from: Weight;
    has_secret: boolean;
  };
  last_sent_at: string | null;
  /** Why the last try failed; without a full stop. */
  problem: string | null;
}

export interface AlertTestView {
  name: string;
  sent_by: string;
  problem: string | null;
}

export interface ImageView {
  name: string;
  image: {
    description: string;
    format: string;
    virtual_size: number;
    disk: { size: number; sha256: string };
    kernel: { size: number } | null;
    imported_at: string;
    imported_on: string;
  };
  present_on: string[];
}

export interface NetworkView {
  name: string;
  network: { subnet: string; gateway: string | null; mtu: number };
  addresses: { address: string; guest: string }[];
}

/** Things by their names, and all that carry one of the tags. */
export interface Selector {
  names: string[];
  tags: string[];
}

export type RuleKind =
  | "apart"
  | "together"
  | "spread-zones"
  | { on: Selector }
  | { off: Selector }
  | { "at-most": { count: number; per: "host" | "zone" } };

export interface Rule {
  kind: RuleKind;
  guests: Selector;
  strength: "must" | "should";
  priority: number;
}

export interface RuleView {
  name: string;
  state: "in-force" | "broken" | "out-of-force" | "idle";
  /** What is out of force and why, or what breaks it. */
  notes: string[];
  /** The guests that it selects now. */
  guests: string[];
  rule: Rule;
}

export interface PoolView {
  name: string;
  kind: Pool;
  /** Null: on each host's own disks. */
  storage: { shared: { path: string } } | null;
  volumes: number;
  size_of_volumes: number;
  hosts: { host: string; reaches: boolean; problem: string | null; size: number | null }[];
  created_at: string | null;
}

/** What a guest said last on its serial port, from each host that has some; who spoke last comes last. */
export interface LastLines {
  hosts: { host: string; until: string /** In base64. */; text: string }[];
  silent: string[];
}

export interface UserView {
  name: string;
  created_at: string;
  password_set_at: string;
}

export interface Usage {
  /** Cores. */
  cpu: number;
  /** Bytes. */
  memory: number;
  /** Bytes a second. */
  disk: number;
  network: number;
}

/** One entry for each step; null: nothing was measured. */
export interface SeriesView {
  from: string;
  step_s: number;
  cpu: (number | null)[];
  memory: (number | null)[];
  disk: (number | null)[];
  network: (number | null)[];
  /** Hosts that did not answer. */
  silent: string[];
}

export interface HostUsage {
  host: string;
  at: string;
  measured_s: number;
  total: Usage;
  guests: Record<string, { usage: Usage }>;
}

export type Survive = { hosts: number } | "zone";

export interface Settings {
  store_members: number;
  recovery_starts_per_host: number;
  balance: "off" | "manual" | "automatic";
  balance_moves_at_once: number;
  usage_window_s: number;
  survive: Survive;
  memory_percent: number;
  vcpus_percent: number;
  /** Percent of the hosts; 0: nothing is a storm. */
  storm_share_percent: number;
  storm_window_s: number;
  storm_hold_s: number;
  storm_starts_per_host: number;
  /** 0: never. */
  heal_after_s: number;
  /** Null: the lowest level of all hosts. */
  cpu_baseline: CpuLevel | null;
}

export interface ClusterStatus {
  name: string;
  id: string;
  created_at: string;
  settings: Settings;
  answered_by: string;
  leader: string | null;
  hosts_online: number;
  hosts_total: number;
  /** How many guests are in each phase. */
  guests: Partial<Record<GuestPhase, number>>;
  store_answers: boolean;
  store_members: { host: string; healthy: boolean; is_leader: boolean; message: string | null }[];
  jobs_running: number;
  lowest_cpu_level?: CpuLevel | null;
  problems: string[];
  damaged: Record<string, string>;
}

export interface WhyView {
  guest: string;
  here: { host: string; secondary: string | null } | null;
  because: string[];
  others: Record<string, string>;
  rules: string[];
  cannot_move: string | null;
}

export interface LossView {
  host: string;
  restarts: { guest: string; on: string }[];
  left_out: Record<string, string>;
  local: string[];
  stopped: string[];
  degraded: string[];
  unaffected: number;
}

export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  asked: string;
  why: string;
  instead: string;
}

export interface SessionView {
  /** Null: nobody is signed in. */
  name: string | null;
  expires_at: string | null;
}
