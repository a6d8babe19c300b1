// What an operator says of a guest that is there: its size, its rank, what it is called by, whether it may be moved.

import { patch } from "../data/api";
import { store } from "../data/store";
import type { GuestView } from "../data/types";
import { exactSize, parseSize, wordsOf } from "../data/words";
import { Field } from "../parts/dialog";
import { FormDialog, found, tagChange, useForm, wrongNumber, wrongSize, wrongTags } from "../parts/form";

type Name = "memory" | "vcpus" | "priority" | "tags" | "after" | "pinned" | "limit";
type Values = Record<Name, string>;

const valuesOf = ({ spec }: GuestView): Values => ({
  memory: exactSize(spec.memory),
  vcpus: String(spec.vcpus),
  priority: String(spec.priority),
  tags: spec.tags.join(" "),
  after: spec.start_after.join(" "),
  pinned: spec.pinned ? "yes" : "no",
  limit: String(spec.stop_timeout_s),
});

function check(values: Values): Partial<Values> {
  const unknown = wordsOf(values.after).find((name) => !store.guests.value.has(name));
  return found({
    memory: wrongSize(values.memory),
    vcpus: wrongNumber(values.vcpus),
    priority: wrongNumber(values.priority),
    tags: wrongTags(wordsOf(values.tags)),
    after: unknown && `There is no guest ${unknown}.`,
    limit: wrongNumber(values.limit),
  });
}

const FIELDS: [Name, RegExp][] = [
  ["memory", /memory|its size/],
  ["vcpus", /CPUs?\b/],
  ["tags", /\btags?\b/],
  ["limit", /a limit of/],
  ["after", /\bafter\b|\bstart/],
];

/** What is asked for: only what is different. */
function request({ spec }: GuestView, values: Values, edited: (name: Name) => boolean): Record<string, unknown> {
  const all: Record<Name, [string, unknown]> = {
    memory: ["memory", parseSize(values.memory)],
    vcpus: ["vcpus", Number(values.vcpus)],
    priority: ["priority", Number(values.priority)],
    tags: ["tags", tagChange(spec.tags, wordsOf(values.tags))],
    after: ["start_after", wordsOf(values.after)],
    pinned: ["pinned", values.pinned === "yes"],
    limit: ["stop_timeout_s", Number(values.limit)],
  };
  return Object.fromEntries((Object.keys(all) as Name[]).filter(edited).map((name) => all[name]));
}

export function GuestOptions({ guest, onClose }: { guest: GuestView; onClose: () => void }) {
  const isOff = guest.spec.power === "stopped" && guest.phase === "stopped";
  const form = useForm<Name>({
    prefix: "option",
    now: valuesOf(guest),
    fields: FIELDS,
    check,
    deed: (values, edited) => patch(`/v1/guests/${guest.name}`, request(guest, values, edited)),
    onDone: onClose,
  });
  const sizeHint = isOff
    ? "From its next start on."
    : guest.phase === "stopped"
      ? "Stop it first: it went down by itself, and is still to run."
      : "Can be changed while it is stopped.";
  return (
    <FormDialog title={`Change ${guest.name}`} verb="Change" form={form} onClose={onClose}>
      <div class="field-row">
        <Field label="Memory" hint={sizeHint} {...form.field("memory")}>
          <input {...form.input("memory")} disabled={!isOff} spellcheck={false} />
        </Field>
        <Field label="CPUs" hint={sizeHint} {...form.field("vcpus")}>
          <input {...form.input("vcpus")} disabled={!isOff} inputMode="numeric" />
        </Field>
      </div>
      <div class="field-row">
        <Field label="Priority" hint="Higher ones come back first after a loss." {...form.field("priority")}>
          <input {...form.input("priority")} inputMode="numeric" />
        </Field>
        <Field label="Time to shut down, in s" hint="Then it is ended hard." {...form.field("limit")}>
          <input {...form.input("limit")} inputMode="numeric" />
        </Field>
      </div>
      <Field label="Moving it" {...form.field("pinned")}>
        <select {...form.input("pinned")}>
          <option value="no">is up to the planner</option>
          <option value="yes">is done only when somebody says so</option>
        </select>
      </Field>
      <Field label="Tags" hint="What rules may name it by; with blanks between them." {...form.field("tags")}>
        <input {...form.input("tags")} spellcheck={false} />
      </Field>
      <Field
        label="Starts after"
        hint="Guests that must run before it is started; from its next start on."
        {...form.field("after")}
      >
        <input {...form.input("after")} spellcheck={false} />
      </Field>
    </FormDialog>
  );
}
