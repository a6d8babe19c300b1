// The one connection that the page lives from. It is watched: a host that says nothing for too long is taken for
// dead, the page says that what it shows is old, and tries again.

import { batch } from "@preact/signals";
import { get, Refused } from "./api";
import { apply, link, type Message, session } from "./store";
import type { SessionView } from "./types";

/** Hosts send a heartbeat every 5 s. */
const SILENCE_MAX_MS = 11_000;
const RETRY_FIRST_MS = 500;
const RETRY_MAX_MS = 8_000;

let source: EventSource | undefined;
let watchdog: number | undefined;
let retry: number | undefined;
let failures = 0;

function close(): void {
  source?.close();
  source = undefined;
  clearTimeout(watchdog);
  clearTimeout(retry);
}

function heard(): void {
  clearTimeout(watchdog);
  watchdog = window.setTimeout(() => lost("the host has gone silent"), SILENCE_MAX_MS);
}

function lost(why: string): void {
  close();
  const wait = Math.min(RETRY_FIRST_MS * 2 ** failures, RETRY_MAX_MS);
  failures += 1;
  const since = link.value.state === "lost" ? link.value.since : new Date();
  link.value = { state: "lost", since, why, retryAt: new Date(Date.now() + wait) };
  retry = window.setTimeout(() => void reconnect(), wait);
}

/** An event stream does not tell why it failed, so it is asked first whether the session is still good. */
async function reconnect(): Promise<void> {
  try {
    const answer = await get<SessionView>("/v1/session");
    if (answer.name === null) return signedOut();
    session.value = answer;
  } catch (error) {
    return lost(error instanceof Refused ? error.problem.why : "the connection failed");
  }
  connect();
}

function signedOut(): void {
  close();
  failures = 0;
  batch(() => {
    session.value = null;
    link.value = { state: "connecting" };
    apply({ items: {} }, true);
  });
}

function take(isSnapshot: boolean): (event: MessageEvent<string>) => void {
  return (event) => {
    heard();
    failures = 0;
    const message = JSON.parse(event.data) as Message;
    batch(() => {
      apply(message, isSnapshot);
      if (link.value.state !== "live") link.value = { state: "live" };
    });
  };
}

export function connect(): void {
  close();
  source = new EventSource("/v1/stream");
  source.addEventListener("snapshot", take(true));
  source.addEventListener("changes", take(false));
  source.addEventListener("heartbeat", heard);
  source.addEventListener("signed-out", signedOut);
  source.addEventListener("error", () => lost("the connection broke"));
  heard();
}

/** A network that comes back, or a page that is looked at again, is worth a try at once. */
export function watchTheNetwork(): void {
  const now = () => {
    if (link.value.state === "lost") {
      clearTimeout(retry);
      void reconnect();
    }
  };
  window.addEventListener("online", now);
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && now());
}
