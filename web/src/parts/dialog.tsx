// Questions: a dialog that says what will happen, does it, and shows a refusal where it belongs.

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { problemOf } from "../data/api";
import { isLive } from "../data/store";
import type { Problem } from "../data/types";
import { capital } from "../data/words";
import { Button } from "./basic";

interface DialogProps {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
}

/** The browser's own modal dialog: it keeps the focus, and Escape closes it. */
export function Dialog({ title, onClose, children }: DialogProps) {
  const element = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const dialog = element.current;
    if (dialog && !dialog.open) dialog.showModal();
  }, []);
  return (
    <dialog ref={element} onClose={onClose} aria-labelledby="dialog-title">
      <h2 id="dialog-title">{title}</h2>
      {children}
    </dialog>
  );
}

/** A refusal in the API's own words: why not, and what would work. */
export function Refusal({ problem }: { problem: Problem | null }) {
  if (!problem) return null;
  return (
    <div class="refusal" role="alert">
      <strong>{capital(problem.why)}.</strong> {capital(problem.instead)}.
    </div>
  );
}

interface ConfirmProps {
  title: string;
  /** What will happen, said first. */
  consequences: ComponentChildren[];
  /** What the button says. */
  verb: string;
  danger?: boolean;
  /** To be typed, for what cannot be undone. */
  typed?: string;
  children?: ComponentChildren;
  onClose: () => void;
  onYes: () => Promise<unknown>;
}

export function Confirm({ title, consequences, verb, danger, typed, children, onClose, onYes }: ConfirmProps) {
  const { busy, problem, run } = useDeed(onYes, onClose);
  const [text, setText] = useState("");
  const ready = typed === undefined || text === typed;
  return (
    <Dialog title={title} onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (ready) void run();
        }}
      >
        <ul class="consequences">
          {consequences.map((consequence, index) => (
            <li key={index}>{consequence}</li>
          ))}
        </ul>
        {children}
        {typed !== undefined && (
          <Field label={`Type ${typed} to go on`} name="typed">
            <input id="typed" autocomplete="off" value={text} onInput={(event) => setText(event.currentTarget.value)} />
          </Field>
        )}
        <Refusal problem={problem} />
        <div class="dialog-end">
          <Button onClick={onClose}>Leave it</Button>
          <Button type="submit" kind={danger ? "danger" : "main"} disabled={busy || !ready || !isLive.value}>
            {busy ? "Asking…" : verb}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}

/** Something that is asked of the cluster: whether it is under way, and why it was refused. */
export function useDeed(deed: () => Promise<unknown>, onDone: () => void) {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const run = async (): Promise<void> => {
    setBusy(true);
    setProblem(null);
    try {
      await deed();
      onDone();
    } catch (error) {
      setProblem(problemOf(error));
    } finally {
      setBusy(false);
    }
  };
  return { busy, problem, run };
}

interface FieldProps {
  label: string;
  name: string;
  hint?: ComponentChildren;
  /** What is wrong with it. */
  wrong?: string | undefined;
  children: ComponentChildren;
}

/** A label, its input (whose id is `name`), and what is wrong with it right beside it. */
export function Field({ label, name, hint, wrong, children }: FieldProps) {
  return (
    <div class={wrong ? "field wrong" : "field"}>
      <label for={name}>{label}</label>
      {children}
      {wrong ? (
        <p class="wrong-text" id={`${name}-wrong`} role="alert">
          {wrong}
        </p>
      ) : (
        hint && <p class="hint">{hint}</p>
      )}
    </div>
  );
}

interface CheckProps {
  label: string;
  name: string;
  checked: boolean;
  onChange: (checked: boolean) => void;
}

/** A yes or a no. */
export function Check({ label, name, checked, onChange }: CheckProps) {
  return (
    <label class="check" for={name}>
      <input id={name} type="checkbox" checked={checked} onChange={(event) => onChange(event.currentTarget.checked)} />
      {label}
    </label>
  );
}
