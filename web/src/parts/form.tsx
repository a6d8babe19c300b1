// A form for what exists: what holds now stands in it and goes on following the cluster until it is edited, only what
// was edited is asked for, and what is wrong stands beside its field.

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { problemOf } from "../data/api";
import { isLive } from "../data/store";
import type { Problem } from "../data/types";
import { parseSize } from "../data/words";
import { Button } from "./basic";
import { Dialog, Refusal } from "./dialog";

type Values<K extends string> = Record<K, string>;
type Input = { currentTarget: HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement };

interface Options<K extends string> {
  /** Stands before each field's id. */
  prefix: string;
  /** What holds now. */
  now: Values<K>;
  /** Which field a refusal speaks of: the first whose pattern is found in it. */
  fields?: [K, RegExp][];
  /** What can be seen to be wrong without asking. */
  check?: (form: Values<K>) => Partial<Values<K>>;
  /** `edited`: what is different from what holds now. */
  deed: (form: Values<K>, edited: (name: K) => boolean) => Promise<unknown>;
  onDone?: () => void;
}

/** What an input, a choice or a text gets. */
interface InputProps {
  id: string;
  value: string;
  "aria-invalid": boolean;
  "aria-describedby"?: string;
  onInput: (event: Input) => void;
}

export interface Form<K extends string> {
  values: Values<K>;
  isEdited: boolean;
  busy: boolean;
  /** A refusal that speaks of no field. */
  problem: Problem | null;
  field: (name: K) => { name: string; wrong: string | undefined };
  input: (name: K) => InputProps;
  set: (name: K, value: string) => void;
  submit: (event: Event) => void;
}

export function useForm<K extends string>({ prefix, now, fields, check, deed, onDone }: Options<K>): Form<K> {
  const [edited, setEdited] = useState<Partial<Values<K>>>({});
  const [wrong, setWrong] = useState<Partial<Values<K>>>({});
  const [problem, setProblem] = useState<Problem | null>(null);
  const [busy, setBusy] = useState(false);
  const values = { ...now, ...edited };
  const isEdited = (name: K) => values[name] !== now[name];
  const id = (name: K) => `${prefix}-${name}`;
  const blame = (found: Partial<Values<K>>) => {
    setWrong(found);
    const first = (Object.keys(found) as K[])[0];
    if (first) document.getElementById(id(first))?.focus();
    return first !== undefined;
  };
  const set = (name: K, value: string) => {
    setEdited((old) => ({ ...old, [name]: value }));
    setWrong((old) => ({ ...old, [name]: undefined }));
    setProblem(null);
  };
  const run = async () => {
    setProblem(null);
    if (blame(check?.(values) ?? {})) return;
    setBusy(true);
    try {
      await deed(values, isEdited);
      setEdited({});
      onDone?.();
    } catch (error) {
      const refused = problemOf(error);
      const field = fields?.find(([, pattern]) => pattern.test(refused.why))?.[0];
      if (field) blame({ [field]: `${refused.why}; ${refused.instead}.` } as Partial<Values<K>>);
      else setProblem(refused);
    } finally {
      setBusy(false);
    }
  };
  return {
    values,
    isEdited: (Object.keys(now) as K[]).some(isEdited),
    busy,
    problem,
    set,
    field: (name) => ({ name: id(name), wrong: wrong[name] }),
    input: (name) => ({
      id: id(name),
      value: values[name],
      "aria-invalid": wrong[name] !== undefined,
      ...(wrong[name] ? { "aria-describedby": `${id(name)}-wrong` } : {}),
      onInput: (event: Input) => set(name, event.currentTarget.value),
    }),
    submit: (event) => {
      event.preventDefault();
      if (!busy) void run();
    },
  };
}

interface FormDialogProps<K extends string> {
  title: string;
  verb: string;
  form: Form<K>;
  /** What will happen, said first. */
  consequences?: ComponentChildren[];
  danger?: boolean;
  /** There is something to be asked for although nothing was edited. */
  ready?: boolean;
  onClose: () => void;
  children: ComponentChildren;
}

export function FormDialog<K extends string>(props: FormDialogProps<K>) {
  const { title, verb, form, consequences = [], danger, onClose, children } = props;
  const ready = props.ready ?? form.isEdited;
  return (
    <Dialog title={title} onClose={onClose}>
      <form noValidate onSubmit={form.submit}>
        {consequences.length > 0 && (
          <ul class="consequences">
            {consequences.map((consequence, index) => (
              <li key={index}>{consequence}</li>
            ))}
          </ul>
        )}
        {children}
        <Refusal problem={form.problem} />
        <div class="dialog-end">
          <Button onClick={onClose}>Leave it</Button>
          <Button type="submit" kind={danger ? "danger" : "main"} disabled={form.busy || !ready || !isLive.value}>
            {form.busy ? "Asking…" : verb}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}

/** What is wrong with a number. */
export const wrongNumber = (text: string): string | undefined =>
  /^-?\d+$/.test(text.trim()) ? undefined : "Write a whole number.";

/** What is wrong with a size. */
export const wrongSize = (text: string): string | undefined =>
  parseSize(text) === null ? "Write a size, as in 512M or 2G." : undefined;

/** Only those that say something. */
export function found<K extends string>(wrong: Partial<Record<K, string | undefined>>): Partial<Record<K, string>> {
  return Object.fromEntries(Object.entries(wrong).filter(([, text]) => text)) as Partial<Record<K, string>>;
}

const TAG = /^[A-Za-z0-9_.-]{1,63}$/;

/** What is wrong with tags. */
export function wrongTags(tags: string[]): string | undefined {
  const bad = tags.find((tag) => !TAG.test(tag));
  return bad && `“${bad}” is not a tag: use letters, digits, hyphens, underscores and dots.`;
}

/** Tags that come and go, between what there is and what there shall be. */
export const tagChange = (old: string[], wanted: string[]): { add: string[]; remove: string[] } => ({
  add: wanted.filter((tag) => !old.includes(tag)),
  remove: old.filter((tag) => !wanted.includes(tag)),
});
