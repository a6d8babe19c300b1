// Placement rules: who is kept apart, together, on or off some hosts. What contradicts what is the API's word.

import { useState } from "preact/hooks";
import { post, put, remove } from "../data/api";
import { byName, isLive, store } from "../data/store";
import type { Rule, RuleKind, RuleView, Selector } from "../data/types";
import { capital, wordsOf } from "../data/words";
import { Button, Card, Empty, GuestLink, State } from "../parts/basic";
import { Confirm, Field } from "../parts/dialog";
import { FormDialog, found, useForm, wrongNumber, wrongTags } from "../parts/form";

type Kind = "apart" | "together" | "on" | "off" | "spread-zones" | "at-most";

const KINDS: Record<Kind, string> = {
  apart: "no two on one host",
  together: "all on one host",
  on: "only on these hosts",
  off: "on none of these hosts",
  "spread-zones": "spread evenly over the zones",
  "at-most": "at most so many on one host, or in one zone",
};

const TAG = "tag:";

/** As it is typed: names, and tags as in `tag:web`. */
const textOf = (of: Selector): string => [...of.names, ...of.tags.map((tag) => TAG + tag)].join(", ");

function selectorOf(text: string): Selector {
  const words = wordsOf(text);
  return {
    names: words.filter((word) => !word.startsWith(TAG)),
    tags: words.filter((word) => word.startsWith(TAG)).map((word) => word.slice(TAG.length)),
  };
}

/** A rule's kind in words, as in `only on tag:ssd`. */
export function sayKind(kind: RuleKind): string {
  if (typeof kind === "string") return KINDS[kind];
  if ("on" in kind) return `only on ${textOf(kind.on)}`;
  if ("off" in kind) return `not on ${textOf(kind.off)}`;
  const { count, per } = kind["at-most"];
  return `at most ${count} ${per === "host" ? "on a host" : "in a zone"}`;
}

const say = ({ kind, guests, strength }: Rule): string => `${textOf(guests)} ${strength} be ${sayKind(kind)}`;

/** A rule with what it says and whether it is kept. */
export function RuleLine({
  view,
  onChange,
  onDelete,
}: {
  view: RuleView;
  onChange?: () => void;
  onDelete?: () => void;
}) {
  const { name, state, notes, guests, rule } = view;
  return (
    <li class="rule">
      <div class="rule-head">
        <strong>{name}</strong>
        <State of={state} text={state.replaceAll("-", " ")} />
      </div>
      <p>
        {capital(say(rule))}.{rule.priority !== 0 && <span class="faint"> Priority {rule.priority}.</span>}
      </p>
      {notes.map((note) => (
        <p key={note} class="note">
          {capital(note)}.
        </p>
      ))}
      <div class="rule-end">
        <span class="faint">
          {guests.length === 0 ? "Binds nobody yet." : "Binds "}
          {guests.slice(0, GUESTS_SHOWN).map((guest, index) => (
            <span key={guest}>
              {index > 0 && ", "}
              <GuestLink name={guest} />
            </span>
          ))}
          {guests.length > GUESTS_SHOWN && ` and ${guests.length - GUESTS_SHOWN} more`}
        </span>
        {onChange && (
          <button type="button" class="quiet" disabled={!isLive.value} onClick={onChange} aria-label={`Change ${name}`}>
            Change
          </button>
        )}
        {onDelete && (
          <button type="button" class="quiet" disabled={!isLive.value} onClick={onDelete} aria-label={`Delete ${name}`}>
            Delete
          </button>
        )}
      </div>
    </li>
  );
}

const GUESTS_SHOWN = 6;

export function Rules() {
  /** A rule's name; empty: a new one. */
  const [edited, setEdited] = useState<string | null>(null);
  const [gone, setGone] = useState<string | null>(null);
  const rules = [...store.rules.value.values()].sort(byName);
  return (
    <Card
      title="Placement rules"
      more={
        <Button disabled={!isLive.value} onClick={() => setEdited("")}>
          Create a rule
        </Button>
      }
    >
      {rules.length === 0 && <Empty>There is no rule: guests go where they are best off.</Empty>}
      <ul class="rules">
        {rules.map((view) => (
          <RuleLine
            key={view.name}
            view={view}
            onChange={() => setEdited(view.name)}
            onDelete={() => setGone(view.name)}
          />
        ))}
      </ul>
      {edited !== null && <EditRule rule={store.rules.value.get(edited)} onClose={() => setEdited(null)} />}
      {gone && (
        <Confirm
          title={`Delete the rule ${gone}?`}
          verb="Delete"
          danger
          consequences={["Guests stay where they are.", "From the next move or start on, nothing heeds it."]}
          onClose={() => setGone(null)}
          onYes={() => remove(`/v1/rules/${gone}`)}
        />
      )}
    </Card>
  );
}

type Name = "name" | "kind" | "guests" | "hosts" | "count" | "per" | "strength" | "priority";
type Values = Record<Name, string>;

const NEW: Values = {
  name: "",
  kind: "apart",
  guests: "",
  hosts: "",
  count: "1",
  per: "host",
  strength: "must",
  priority: "0",
};

function valuesOf(view: RuleView | undefined): Values {
  if (!view) return NEW;
  const { kind, guests, strength, priority } = view.rule;
  const common = { ...NEW, name: view.name, guests: textOf(guests), strength, priority: String(priority) };
  if (typeof kind === "string") return { ...common, kind };
  if ("on" in kind) return { ...common, kind: "on", hosts: textOf(kind.on) };
  if ("off" in kind) return { ...common, kind: "off", hosts: textOf(kind.off) };
  const { count, per } = kind["at-most"];
  return { ...common, kind: "at-most", count: String(count), per };
}

function kindOf(values: Values): RuleKind {
  switch (values.kind as Kind) {
    case "apart":
      return "apart";
    case "together":
      return "together";
    case "spread-zones":
      return "spread-zones";
    case "on":
      return { on: selectorOf(values.hosts) };
    case "off":
      return { off: selectorOf(values.hosts) };
    case "at-most":
      return { "at-most": { count: Number(values.count), per: values.per as "host" | "zone" } };
  }
}

const namesHosts = (values: Values): boolean => values.kind === "on" || values.kind === "off";

const check = (values: Values): Partial<Values> =>
  found({
    name: values.name ? undefined : "A rule needs a name.",
    guests: values.guests.trim()
      ? wrongTags(selectorOf(values.guests).tags)
      : "Name guests, or tags of guests as in tag:web.",
    hosts: namesHosts(values)
      ? values.hosts.trim()
        ? wrongTags(selectorOf(values.hosts).tags)
        : "Name hosts, or tags of hosts as in tag:ssd."
      : undefined,
    count: values.kind === "at-most" ? wrongNumber(values.count) : undefined,
    priority: wrongNumber(values.priority),
  });

const FIELDS: [Name, RegExp][] = [
  ["name", /of that name|rule name/],
  ["count", /at most/],
  ["hosts", /\bhosts?\b/],
  ["guests", /\bguests?\b/],
];

function EditRule({ rule, onClose }: { rule: RuleView | undefined; onClose: () => void }) {
  const form = useForm<Name>({
    prefix: "rule",
    now: valuesOf(rule),
    fields: FIELDS,
    check,
    deed: (values) => {
      const says = {
        kind: kindOf(values),
        guests: selectorOf(values.guests),
        strength: values.strength,
        priority: Number(values.priority),
      };
      return rule ? put(`/v1/rules/${rule.name}`, says) : post("/v1/rules", { name: values.name, ...says });
    },
    onDone: onClose,
  });
  const { kind } = form.values;
  return (
    <FormDialog
      title={rule ? `Change the rule ${rule.name}` : "Create a rule"}
      verb={rule ? "Change" : "Create"}
      consequences={[
        "Guests are not moved at once: balancing does what is worth it.",
        "What contradicts another rule is told in the list; the rule of the higher priority is in force.",
      ]}
      form={form}
      onClose={onClose}
    >
      {!rule && (
        <Field label="Name" hint="As in web-apart." {...form.field("name")}>
          <input {...form.input("name")} autocomplete="off" spellcheck={false} />
        </Field>
      )}
      <Field
        label="Guests"
        hint="By name, and by tag as in tag:web: that binds guests to come, too."
        {...form.field("guests")}
      >
        <input {...form.input("guests")} spellcheck={false} />
      </Field>
      <div class="field-row">
        <Field
          label="It"
          hint={
            form.values.strength === "must"
              ? "A plan never breaks it; a guest waits rather."
              : "Where that costs less than it is worth."
          }
          {...form.field("strength")}
        >
          <select {...form.input("strength")}>
            <option value="must">must be kept</option>
            <option value="should">should be kept</option>
          </select>
        </Field>
        <Field label="Priority" hint="The higher one wins." {...form.field("priority")}>
          <input {...form.input("priority")} inputMode="numeric" />
        </Field>
      </div>
      <Field label="What it asks of them" {...form.field("kind")}>
        <select {...form.input("kind")}>
          {Object.entries(KINDS).map(([value, text]) => (
            <option key={value} value={value}>
              {text}
            </option>
          ))}
        </select>
      </Field>
      {namesHosts(form.values) && (
        <Field label="Hosts" hint="By name, and by tag as in tag:ssd." {...form.field("hosts")}>
          <input {...form.input("hosts")} spellcheck={false} />
        </Field>
      )}
      {kind === "at-most" && (
        <div class="field-row">
          <Field label="At most" {...form.field("count")}>
            <input {...form.input("count")} inputMode="numeric" />
          </Field>
          <Field label="On one" {...form.field("per")}>
            <select {...form.input("per")}>
              <option value="host">host</option>
              <option value="zone">zone</option>
            </select>
          </Field>
        </div>
      )}
    </FormDialog>
  );
}
