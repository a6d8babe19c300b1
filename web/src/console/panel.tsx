// The place of a guest's console: its serial port, or its screen. What draws them is loaded when they are opened.

import { useEffect, useRef, useState } from "preact/hooks";
import { post, problemOf } from "../data/api";
import type { Problem } from "../data/types";
import { Button, Dot } from "../parts/basic";
import { Refusal } from "../parts/dialog";
import type { Callbacks, ConsoleHandle } from "./handle";

export type ConsoleKind = "console" | "screen";
type State = "opening" | "open" | "ended";

const NAMES: Record<ConsoleKind, string> = { console: "Serial console", screen: "Screen" };

export const isConsole = (part: string | undefined): part is ConsoleKind => part === "console" || part === "screen";

async function opener(kind: ConsoleKind): Promise<(box: HTMLElement, path: string, on: Callbacks) => ConsoleHandle> {
  if (kind === "screen") return (await import("./screen")).openScreen;
  return (await import("./terminal")).openTerminal;
}

export function ConsolePanel({ guest, kind }: { guest: string; kind: ConsoleKind }) {
  const box = useRef<HTMLDivElement>(null);
  const handle = useRef<ConsoleHandle>();
  const [round, setRound] = useState(0);
  const [state, setState] = useState<State>("opening");
  const [reason, setReason] = useState("");
  const [problem, setProblem] = useState<Problem | null>(null);
  useEffect(() => {
    let closed = false;
    const open = async () => {
      setState("opening");
      setProblem(null);
      try {
        const show = await opener(kind);
        const { ticket } = await post<{ ticket: string }>(`/v1/guests/${guest}/console-tickets`);
        if (closed || !box.current) return;
        handle.current = show(
          box.current,
          `/v1/guests/${guest}/${kind}?ticket=${ticket}${kind === "console" ? "&scroll_back=true" : ""}`,
          {
            onOpen: () => setState("open"),
            onEnd: (why) => {
              setReason(why);
              setState("ended");
            },
          },
        );
      } catch (error) {
        if (closed) return;
        setProblem(problemOf(error));
        setState("ended");
      }
    };
    void open();
    return () => {
      closed = true;
      handle.current?.close();
      handle.current = undefined;
    };
  }, [guest, kind, round]);
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
      <div class={kind === "screen" ? "screen" : "terminal"} ref={box} hidden={problem !== null} />
    </section>
  );
}
