// What the hosts measured since this page was opened, for its small charts. Bounded, whatever happens.

import { signal } from "@preact/signals";
import type { HostUsage, Usage } from "./types";

/** One sample every 5 s: a quarter of an hour. */
const SAMPLES_MAX = 180;

export interface Sample {
  at: number;
  usage: Usage;
}

const series = new Map<string, Sample[]>();
/** Grows with each round, so that whoever draws knows of it. */
export const rounds = signal(0);

function add(key: string, at: number, usage: Usage): void {
  const samples = series.get(key) ?? [];
  if (samples.at(-1)?.at === at) return;
  samples.push({ at, usage });
  if (samples.length > SAMPLES_MAX) samples.shift();
  series.set(key, samples);
}

export function record(usages: HostUsage[], fresh: boolean): void {
  if (fresh) series.clear();
  const now = Date.now();
  for (const { host, total, at, guests } of usages) {
    const time = Date.parse(at) || now;
    add(`host/${host}`, time, total);
    for (const [guest, { usage }] of Object.entries(guests)) add(`guest/${guest}`, time, usage);
  }
  // What is no longer measured is forgotten.
  const oldest = now - SAMPLES_MAX * 5_000;
  for (const [key, samples] of series) {
    if ((samples.at(-1)?.at ?? 0) < oldest) series.delete(key);
  }
  rounds.value += 1;
}

export const samplesOf = (key: string): readonly Sample[] => series.get(key) ?? [];
