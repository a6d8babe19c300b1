// The place of a guest's console. What draws it is loaded when it is opened.

import { useEffect, useRef, useState } from "preact/hooks";
import { post, problemOf } from "../data/api";
import type { Problem } from "../data/types";
import { Button, Dot } from "../parts/basic";
import { Refusal } from "../parts/dialog";
import type { TerminalHandle } from "./terminal";

type State = "opening" | "open" | "ended";

export function ConsolePanel({ guest }: { guest: string }) {
  const box = useRef<HTMLDivElement>(null);
  const [round, setRound] = useState(0);
  const [state, setState] = useState<State>("opening");
  const [reason, setReason] = useState("");
  const [problem, setProblem] = useState<Problem | null>(null);
  useEffect(() => {
    let handle: TerminalHandle | undefined;
    let closed = false;
    const open = async () => {
      setState("opening");
      setProblem(null);
      try {
        const { openTerminal } = await import("./terminal");
        const { ticket } = await post<{ ticket: string }>(`/v1/guests/${guest}/console-tickets`);
        if (closed || !box.current) return;
        const path = `/v1/guests/${guest}/console?ticket=${ticket}&scroll_back=true`;
        handle = openTerminal(box.current, path, {
          onOpen: () => setState("open"),
          onEnd: (why) => {
            setReason(why);
            setState("ended");
          },
        });
      } catch (error) {
        if (closed) return;
        setProblem(problemOf(error));
        setState("ended");
      }
    };
    void open();
    return () => {
      closed = true;
      handle?.close();
    };
  }, [guest, round]);
  return (
    <section class="console card" aria-label={`Serial console of ${guest}`}>
      <div class="console-head">
        <span class={`state ${state === "open" ? "good" : state === "opening" ? "busy" : "idle"}`}>
          <Dot colour={state === "open" ? "good" : state === "opening" ? "busy" : "idle"} />
          {state === "open"
            ? "serial console"
            : state === "opening"
              ? "opening…"
              : `ended${reason ? `: ${reason}` : ""}`}
        </span>
        <span class="faint">Ctrl-Shift-Escape leaves the console</span>
        {state === "ended" && <Button onClick={() => setRound(round + 1)}>Open anew</Button>}
      </div>
      <Refusal problem={problem} />
      <div class="terminal" ref={box} hidden={problem !== null} />
    </section>
  );
}
