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

export interface VolumeView {
  id: string;
  guest: string;
  disk: number;
  pool: Pool;
  size: number;
  image: string | null;
  phase: VolumePhase;
  fill?: { done: number; total: number } | null;
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
  report: { since: string; accelerator: string | null; state: string; migration?: MigrationReport | null } | null;
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
  };
  session: { started_at: string } | null;
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
  } | null;
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

export interface RuleView {
  name: string;
  state: "in-force" | "broken" | "out-of-force" | "idle";
  notes: string[];
  guests: string[];
  rule: { strength: "must" | "should"; priority: number; kind: string | Record<string, unknown> };
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
  store_answers: boolean;
  store_members: { host: string; healthy: boolean; is_leader: boolean; message: string | null }[];
  jobs_running: number;
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
