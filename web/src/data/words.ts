// Numbers, sizes and times as people read them. The same forms as the kennel command's.

import { signal } from "@preact/signals";

const UNITS: [number, string][] = [
  [2 ** 40, "T"],
  [2 ** 30, "G"],
  [2 ** 20, "M"],
  [2 ** 10, "K"],
];

/** As in `512M`, and `1.5G` for what is not whole. */
export function size(bytes: number): string {
  const unit = UNITS.find(([unit]) => bytes >= unit);
  if (!unit) return `${Math.round(bytes)}`;
  const amount = bytes / unit[0];
  return `${Number.isInteger(amount) ? amount : amount.toFixed(1)}${unit[1]}`;
}

/** As it is typed: in the largest unit in which it is a whole number. */
export function exactSize(bytes: number): string {
  const unit = UNITS.find(([unit]) => bytes >= unit && bytes % unit === 0);
  return unit ? `${bytes / unit[0]}${unit[1]}` : `${bytes}`;
}

/** What somebody typed as a size; null: it is none. */
export function parseSize(text: string): number | null {
  const match = /^\s*(\d+)\s*([kmgt]?)(?:i?b)?\s*$/i.exec(text);
  if (!match?.[1]) return null;
  const exponent = { "": 0, k: 10, m: 20, g: 30, t: 40 }[(match[2] ?? "").toLowerCase()] ?? 0;
  return Number(match[1]) * 2 ** exponent;
}

const SPANS: [string, number][] = [
  ["d", 86_400],
  ["h", 3_600],
  ["m", 60],
  ["s", 1],
];

/** A stretch of time as it is typed: in the largest unit in which it is a whole number, as in `30m`. */
export function span(seconds: number): string {
  const [unit, length] = SPANS.find(([, length]) => seconds >= length && seconds % length === 0) ?? ["s", 1];
  return `${seconds / length}${unit}`;
}

/** What somebody typed as a stretch of time, in seconds; null: it is none. */
export function parseSpan(text: string): number | null {
  const match = /^\s*(\d+)\s*([smhd]?)\s*$/i.exec(text);
  if (!match?.[1]) return null;
  const unit = (match[2] || "s").toLowerCase();
  return Number(match[1]) * (SPANS.find(([name]) => name === unit)?.[1] ?? 1);
}

/** Words with blanks or commas between them. */
export const wordsOf = (text: string): string[] => text.split(/[\s,]+/).filter(Boolean);

export const count = (n: number, what: string): string => `${n} ${what}${n === 1 ? "" : "s"}`;
export const percent = (part: number, whole: number): number => (whole > 0 ? Math.min(100, (100 * part) / whole) : 0);

/** Moves on by itself, so that what is relative to it does. */
export const now = signal(Date.now());
setInterval(() => {
  if (document.visibilityState === "visible") now.value = Date.now();
}, 1000);

const STEPS: [number, string][] = [
  [86_400, "d"],
  [3_600, "h"],
  [60, "min"],
];

/** As in `3 min ago`. */
export function ago(at: string, from: number): string {
  const seconds = Math.max(0, Math.round((from - Date.parse(at)) / 1000));
  if (seconds < 5) return "just now";
  const step = STEPS.find(([unit]) => seconds >= unit);
  return step ? `${Math.floor(seconds / step[0])} ${step[1]} ago` : `${seconds} s ago`;
}

export function duration(seconds: number): string {
  const step = STEPS.find(([unit]) => seconds >= unit);
  return step ? `${Math.floor(seconds / step[0])} ${step[1]}` : `${Math.max(0, Math.round(seconds))} s`;
}

/** A length of time that was measured, as in `2.1 s` and `1 min 30 s`. */
export function measured(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return `${seconds}.${Math.floor((ms % 1000) / 100)} s`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3_600)} h ${Math.floor((seconds % 3_600) / 60)} min`;
}

export const clock = (at: string | Date): string =>
  new Date(at).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
export const moment = (at: string): string =>
  new Date(at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium", hour12: false });

/** The first letter large, unless a name stands there, which is written as it is. */
export function capital(text: string): string {
  const first = text.split(/[\s,]/)[0] ?? "";
  return /[\d-]/.test(first) ? text : text.charAt(0).toUpperCase() + text.slice(1);
}

/** In percent of one core, or in cores. */
export const cores = (cpu: number): string => (cpu < 0.995 ? `${Math.round(cpu * 100)}%` : `${cpu.toFixed(1)} cores`);
