// The place of a guest's console: its serial port, or its screen. What draws them is loaded when they are opened.
//
// A serial port that is shut still shows what it said last, and why it is shut. When the guest runs again, here or on
// another host, the console opens by itself.

import { useEffect, useRef, useState } from "preact/hooks";
import { post, problemOf } from "../data/api";
import { store } from "../data/store";
import type { Problem } from "../data/types";
import { Button, Dot } from "../parts/basic";
import { Refusal } from "../parts/dialog";
import type { Callbacks, ConsoleHandle } from "./handle";
import { fetchLastLines, sayLastLines, soon } from "./last-lines";

export type ConsoleKind = "console" | "screen";
type State = "opening" | "open" | "ended";

const NAMES: Record<ConsoleKind, string> = { console: "Serial console", screen: "Screen" };

export const isConsole = (part: string | undefined): part is ConsoleKind => part === "console" || part === "screen";

/** Opens something in the place that a console has, unless that has gone meanwhile. */
type Put = (open: (box: HTMLElement) => ConsoleHandle) => void;

async function ticketFor(guest: string): Promise<string> {
  return (await post<{ ticket: string }>(`/v1/guests/${guest}/console-tickets`)).ticket;
}

async function showScreen(guest: string, put: Put, on: Callbacks): Promise<void> {
  const [{ openScreen }, ticket] = await Promise.all([import("./screen"), ticketFor(guest)]);
  put((box) => openScreen(box, `/v1/guests/${guest}/screen?ticket=${ticket}`, on));
}

/** When it is shut, shows what it said last, and throws why. */
async function showSerial(guest: string, put: Put, on: Callbacks): Promise<void> {
  const lines = fetchLastLines(guest);
  const [terminal, ticket] = await Promise.allSettled([import("./terminal"), ticketFor(guest)]);
  if (terminal.status === "rejected") throw terminal.reason;
  const { openTerminal } = terminal.value;
  if (ticket.status === "rejected") {
    const before = sayLastLines(await lines, null);
    if (before.length > 0) put((box) => openTerminal(box, null, on, before));
    throw ticket.reason;
  }
  const here = store.guests.value.get(guest)?.host ?? null;
  const before = sayLastLines(await soon(lines), here);
  const path = `/v1/guests/${guest}/console?ticket=${ticket.value}&scroll_back=true`;
  put((box) => openTerminal(box, path, on, before));
}

/** Names one run of a guest's machine; null: it does not run. */
function runOf(name: string): string | null {
  const guest = store.guests.value.get(name);
  if (guest?.phase !== "running") return null;
  return `${guest.assignment?.epoch} ${guest.report?.since}`;
}

export function ConsolePanel({ guest, kind }: { guest: string; kind: ConsoleKind }) {
  const place = useRef<HTMLDivElement>(null);
  const handle = useRef<ConsoleHandle>();
  const opened = useRef<string | null>(null);
  const [round, setRound] = useState(0);
  const [state, setState] = useState<State>("opening");
  const [reason, setReason] = useState("");
  const [problem, setProblem] = useState<Problem | null>(null);
  const [isEmpty, setEmpty] = useState(true);
  useEffect(() => {
    let closed = false;
    const put: Put = (open) => {
      if (closed || !place.current) return;
      setEmpty(false);
      // What draws it measures its place, which must be there by then.
      place.current.hidden = false;
      handle.current = open(place.current);
    };
    const on: Callbacks = {
      onOpen: () => setState("open"),
      onEnd: (why) => {
        setReason(why);
        setState("ended");
      },
    };
    setState("opening");
    setReason("");
    setProblem(null);
    setEmpty(true);
    opened.current = runOf(guest);
    (kind === "screen" ? showScreen : showSerial)(guest, put, on).catch((error: unknown) => {
      if (closed) return;
      setProblem(problemOf(error));
      setState("ended");
    });
    return () => {
      closed = true;
      handle.current?.close();
      handle.current = undefined;
    };
  }, [guest, kind, round]);
  const run = runOf(guest);
  useEffect(() => {
    if (state === "ended" && run !== null && run !== opened.current) setRound((old) => old + 1);
  }, [state, run]);
  const colour = state === "open" ? "good" : state === "opening" ? "busy" : "idle";
  return (
    <section class="console card" aria-label={`${NAMES[kind]} of ${guest}`}>
      <div class="console-head">
        {(Object.keys(NAMES) as ConsoleKind[]).map((other) => (
          <a key={other} href={`#/guests/${guest}/${other}`} aria-current={other === kind ? "page" : undefined}>
            {NAMES[other]}
          </a>
        ))}
        <span class={`state ${colour}`}>
          <Dot colour={colour} />
          {state === "ended" ? `ended${reason ? `: ${reason}` : ""}` : state === "opening" ? "opening…" : "open"}
        </span>
        <span class="faint">Ctrl-Shift-Escape leaves it</span>
        {state === "open" && kind === "screen" && (
          <Button onClick={() => handle.current?.restart?.()}>Ctrl-Alt-Delete</Button>
        )}
        {state === "ended" && <Button onClick={() => setRound(round + 1)}>Open anew</Button>}
      </div>
      <Refusal problem={problem} />
      <div class={kind === "screen" ? "screen" : "terminal"} ref={place} hidden={isEmpty && problem !== null} />
    </section>
  );
}
