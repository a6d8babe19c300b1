// What holds for the whole cluster: each setting with what it means and its unit.

import { patch } from "../data/api";
import { isLive } from "../data/store";
import type { ClusterStatus, CpuLevel, Settings } from "../data/types";
import { parseSpan, span } from "../data/words";
import { Button, Card } from "../parts/basic";
import { Field, Refusal } from "../parts/dialog";
import { type Form, found, useForm, wrongNumber } from "../parts/form";

const LEVELS: CpuLevel[] = ["x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4"];

type Name =
  | "balance"
  | "survive"
  | "moves"
  | "window"
  | "memory"
  | "vcpus"
  | "starts"
  | "heal"
  | "share"
  | "vanish"
  | "hold"
  | "pace"
  | "baseline";

const formOf = (settings: Settings): Record<Name, string> => ({
  balance: settings.balance,
  survive: settings.survive === "zone" ? "zone" : String(settings.survive.hosts),
  moves: String(settings.balance_moves_at_once),
  window: span(settings.usage_window_s),
  memory: String(settings.memory_percent),
  vcpus: String(settings.vcpus_percent),
  starts: String(settings.recovery_starts_per_host),
  heal: settings.heal_after_s === 0 ? "never" : span(settings.heal_after_s),
  share: settings.storm_share_percent === 0 ? "never" : String(settings.storm_share_percent),
  vanish: span(settings.storm_window_s),
  hold: span(settings.storm_hold_s),
  pace: String(settings.storm_starts_per_host),
  baseline: settings.cpu_baseline ?? "",
});

const isNever = (text: string): boolean => /^(never|off)$/i.test(text.trim());
const seconds = (text: string): number => (isNever(text) ? 0 : (parseSpan(text) ?? 0));

const WRONG_TIME = "Write a time, as in 90s or 5m.";

const check = (form: Record<Name, string>): Partial<Record<Name, string>> =>
  found({
    moves: wrongNumber(form.moves),
    memory: wrongNumber(form.memory),
    vcpus: wrongNumber(form.vcpus),
    starts: wrongNumber(form.starts),
    window: parseSpan(form.window) === null ? WRONG_TIME : undefined,
    share: isNever(form.share) ? undefined : wrongNumber(form.share),
    vanish: parseSpan(form.vanish) === null ? WRONG_TIME : undefined,
    hold: parseSpan(form.hold) === null ? WRONG_TIME : undefined,
    pace: wrongNumber(form.pace),
    heal: !isNever(form.heal) && parseSpan(form.heal) === null ? "Write a time, as in 30m, or “never”." : undefined,
  });

/** What is asked for, by the API's names. */
const asked = (form: Record<Name, string>): Record<Name, [string, unknown]> => ({
  balance: ["balance", form.balance],
  survive: ["survive", form.survive === "zone" ? "zone" : { hosts: Number(form.survive) }],
  moves: ["balance_moves_at_once", Number(form.moves)],
  window: ["usage_window_s", seconds(form.window)],
  memory: ["memory_percent", Number(form.memory)],
  vcpus: ["vcpus_percent", Number(form.vcpus)],
  starts: ["recovery_starts_per_host", Number(form.starts)],
  heal: ["heal_after_s", seconds(form.heal)],
  share: ["storm_share_percent", isNever(form.share) ? 0 : Number(form.share)],
  vanish: ["storm_window_s", seconds(form.vanish)],
  hold: ["storm_hold_s", seconds(form.hold)],
  pace: ["storm_starts_per_host", Number(form.pace)],
  baseline: ["cpu_baseline", form.baseline || null],
});

const FIELDS: [Name, RegExp][] = [
  ["moves", /moves/],
  ["window", /usage window/],
  ["share", /a storm share/],
  ["vanish", /a storm window/],
  ["hold", /a storm hold/],
  ["pace", /in a storm/],
  ["memory", /memory/],
  ["vcpus", /of the cores/],
  ["starts", /starting/],
  ["heal", /healing/],
  ["survive", /room for the loss/],
  ["baseline", /x86-64/],
];

export function ChangeCluster({ cluster }: { cluster: ClusterStatus }) {
  const { settings } = cluster;
  const form = useForm({
    prefix: "set",
    now: formOf(settings),
    fields: FIELDS,
    check,
    deed: (values, edited) => {
      const all = asked(values);
      const changed = (Object.keys(all) as Name[]).filter(edited);
      return patch("/v1/cluster/settings", Object.fromEntries(changed.map((name) => all[name])));
    },
  });
  const survive = form.values.survive;
  return (
    <Card title="For the whole cluster">
      <form noValidate onSubmit={form.submit}>
        <h3>When something is lost</h3>
        <Field
          label="Room is kept for the loss of"
          hint="What would break this promise is refused, unless somebody insists."
          {...form.field("survive")}
        >
          <select {...form.input("survive")}>
            <option value="0">nothing</option>
            <option value="1">any one host</option>
            <option value="2">any two hosts</option>
            {!["0", "1", "2", "zone"].includes(survive) && <option value={survive}>any {survive} hosts</option>}
            <option value="zone">any one zone</option>
          </select>
        </Field>
        <div class="field-row">
          <Field
            label="New second copy after"
            hint="How long a disk has one copy before it gets another host by itself: 90s, 30m, 2h, or never."
            {...form.field("heal")}
          >
            <input {...form.input("heal")} spellcheck={false} />
          </Field>
          <Field
            label="Starts at once on a host"
            hint="Of guests that come back after a loss."
            {...form.field("starts")}
          >
            <input {...form.input("starts")} inputMode="numeric" />
          </Field>
        </div>
        <Storm form={form} />
        <h3>Balance</h3>
        <Field
          label="Balancing"
          hint="Whether guests are moved to spread the load. What would be done stands under “kennel balance show”."
          {...form.field("balance")}
        >
          <select {...form.input("balance")}>
            <option value="automatic">is done</option>
            <option value="manual">is proposed, and waits for a yes</option>
            <option value="off">is off</option>
          </select>
        </Field>
        <div class="field-row">
          <Field label="Moves at once" hint="How many guests travel at a time." {...form.field("moves")}>
            <input {...form.input("moves")} inputMode="numeric" />
          </Field>
          <Field
            label="Load is averaged over"
            hint="A load that lasts much shorter moves nothing: 30s, 5m."
            {...form.field("window")}
          >
            <input {...form.input("window")} spellcheck={false} />
          </Field>
        </div>
        <h3>What guests may have</h3>
        <div class="field-row">
          <Field
            label="Memory, in %"
            hint="All guests of a host together, of the memory that it does not keep for itself."
            {...form.field("memory")}
          >
            <input {...form.input("memory")} inputMode="numeric" />
          </Field>
          <Field
            label="Virtual CPUs, in %"
            hint="All guests of a host together, of its cores: 800 is eight on each core."
            {...form.field("vcpus")}
          >
            <input {...form.input("vcpus")} inputMode="numeric" />
          </Field>
        </div>
        <Field label="Processor that guests see" hint={baselineHint(cluster)} {...form.field("baseline")}>
          <select {...form.input("baseline")}>
            <option value="">what every host has</option>
            {LEVELS.map((level) => (
              <option key={level} value={level}>
                {level}
              </option>
            ))}
          </select>
        </Field>
        <Refusal problem={form.problem} />
        <div class="form-end">
          <Button type="submit" kind="main" disabled={form.busy || !form.isEdited || !isLive.value}>
            {form.busy ? "Asking…" : "Save"}
          </Button>
        </div>
      </form>
    </Card>
  );
}

/** When so many hosts vanish at once that it is more likely the network than the hosts. */
function Storm({ form }: { form: Form<Name> }) {
  return (
    <>
      <h3>When many hosts vanish at once</h3>
      <div class="field-row">
        <Field
          label="A storm is a loss of, in %"
          hint="Of the hosts, and two at least. Or “never”."
          {...form.field("share")}
        >
          <input {...form.input("share")} spellcheck={false} />
        </Field>
        <Field label="Within" hint="Hosts lost within so long vanish at once: 60s." {...form.field("vanish")}>
          <input {...form.input("vanish")} spellcheck={false} />
        </Field>
      </div>
      <div class="field-row">
        <Field label="Nothing is recovered for" hint="The alarm comes first: 30s." {...form.field("hold")}>
          <input {...form.input("hold")} spellcheck={false} />
        </Field>
        <Field label="Then starts at once on a host" hint="Until the storm is over." {...form.field("pace")}>
          <input {...form.input("pace")} inputMode="numeric" />
        </Field>
      </div>
    </>
  );
}

function baselineHint({ lowest_cpu_level: lowest }: ClusterStatus): string {
  const common = lowest ? `All hosts reach ${lowest} now.` : "What all hosts reach is not known yet.";
  return `${common} A guest has what it was started with; it sees a change at its next start.`;
}
