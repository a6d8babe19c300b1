// The cluster's health: one colour, one sentence, and what needs a person.

import { computed } from "@preact/signals";
import { hosts, link, status, store, tally } from "./store";
import { capital, count } from "./words";

export type Tone = "good" | "warning" | "bad" | "unknown";

export interface Health {
  tone: Tone;
  sentence: string;
  reason: string;
}

/** What a person should do something about comes first. */
export const problems = computed<{ tone: Tone; text: string; href: string | undefined }[]>(() => {
  const all = status.value?.problems ?? [];
  const ranked = all.map((text) => ({ tone: toneOf(text), text, href: hrefOf(text) }));
  return ranked.sort((a, b) => Number(b.tone === "bad") - Number(a.tone === "bad"));
});

const BAD = [
  /^host \S+ is lost/,
  /^guest \S+ has failed/,
  /^guest \S+ was on a host/,
  /^the state store does not/,
  /^no host leads/,
  /^guest \S+ is not well/,
  /^a storm: \d/,
];
const toneOf = (text: string): Tone => (BAD.some((pattern) => pattern.test(text)) ? "bad" : "warning");

function hrefOf(text: string): string | undefined {
  const host = /^host ([a-z0-9-]+)/.exec(text)?.[1];
  if (host) return `#/hosts/${host}`;
  const guest = /\bguest ([a-z0-9-]+)/.exec(text)?.[1] ?? text.split(" ")[0] ?? "";
  return store.guests.value.has(guest) ? `#/guests/${guest}` : undefined;
}

export const health = computed<Health>(() => {
  if (link.value.state === "lost") {
    return {
      tone: "unknown",
      sentence: "How the cluster is, is not known.",
      reason: `This page has lost its host: ${link.value.why}.`,
    };
  }
  const cluster = status.value;
  if (!cluster) return { tone: "unknown", sentence: "Asking…", reason: "" };
  const lost = hosts.value.filter((host) => host.phase === "lost").map((host) => host.name);
  const { running, wanted } = tally.value;
  const down = wanted - running;
  const bad = problems.value.find((problem) => problem.tone === "bad");
  const first = bad ?? problems.value[0];
  const reason = first ? sentence(first.text) : "";
  const others = problems.value.filter(({ text }) => !/^host \S+ is lost$/.test(text)).length;
  if (lost.length > 0) {
    const rest =
      down === 0
        ? "every guest that should run does"
        : `${count(down, "guest")} of ${wanted} ${down === 1 ? "does" : "do"} not run yet`;
    const verb = lost.length === 1 ? "is" : "are";
    return { tone: "bad", sentence: `${lost.join(" and ")} ${verb} lost; ${rest}.`, reason: afterLoss(others) };
  }
  if (bad) return { tone: "bad", sentence: "Something needs you.", reason };
  if (first) {
    return {
      tone: "warning",
      sentence: down === 0 ? "Everything runs, with less in reserve." : "Work is under way.",
      reason,
    };
  }
  const what = wanted === 0 ? "no guest should run" : wanted === 1 ? "the one guest runs" : `all ${wanted} guests run`;
  return {
    tone: "good",
    sentence: "All is well.",
    reason: `${count(hosts.value.length, "host")} online, ${what}, every disk is as safe as it should be.`,
  };
});

const afterLoss = (others: number): string =>
  others === 0
    ? "Nothing else is wrong."
    : `${count(others, "more thing")} ${others === 1 ? "needs" : "need"} a look because of it, or beside it.`;

export const sentence = (text: string): string => `${capital(text)}${/[.!?]$/.test(text) ? "" : "."}`;
