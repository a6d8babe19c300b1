// What an operator says of a host: where it stands, what it keeps for itself, and how much it may carry.

import { patch, post } from "../data/api";
import { status } from "../data/store";
import type { GuestView, HostView } from "../data/types";
import { exactSize, parseSize, wordsOf } from "../data/words";
import { Confirm, Field } from "../parts/dialog";
import { FormDialog, found, tagChange, useForm, wrongNumber, wrongSize, wrongTags } from "../parts/form";

type Name = "zone" | "tags" | "speed" | "memory" | "disk" | "cores" | "memoryPercent" | "vcpusPercent";
type Values = Record<Name, string>;

const percentOf = (percent: number | null): string => (percent === null ? "" : String(percent));

const valuesOf = ({ host: { zone, tags, settings } }: HostView): Values => ({
  zone,
  tags: tags.join(" "),
  speed: String(settings.speed_percent),
  memory: exactSize(settings.reserved_memory),
  disk: exactSize(settings.reserved_disk),
  cores: String(settings.reserved_millicores / 1000),
  memoryPercent: percentOf(settings.memory_percent),
  vcpusPercent: percentOf(settings.vcpus_percent),
});

const CORES = /^\d+(\.\d{1,3})?$/;

const check = (values: Values): Partial<Values> =>
  found({
    zone: values.zone.trim() ? undefined : "A host stands in a zone.",
    tags: wrongTags(wordsOf(values.tags)),
    speed: wrongNumber(values.speed),
    memory: wrongSize(values.memory),
    disk: wrongSize(values.disk),
    cores: CORES.test(values.cores.trim()) ? undefined : "Write cores, as in 1 or 0.5.",
    memoryPercent: values.memoryPercent.trim() ? wrongNumber(values.memoryPercent) : undefined,
    vcpusPercent: values.vcpusPercent.trim() ? wrongNumber(values.vcpusPercent) : undefined,
  });

const FIELDS: [Name, RegExp][] = [
  ["zone", /zone/],
  ["tags", /\btags?\b/],
  ["speed", /speed/],
  ["memory", /of memory are all/],
  ["disk", /of disk are all/],
  ["cores", /cores are all/],
];

function request({ host }: HostView, values: Values, edited: (name: Name) => boolean): Record<string, unknown> {
  const percent = (text: string) => (text.trim() ? Number(text) : null);
  const all: [Name, string, unknown][] = [
    ["speed", "speed_percent", Number(values.speed)],
    ["memory", "reserved_memory", parseSize(values.memory)],
    ["disk", "reserved_disk", parseSize(values.disk)],
    ["cores", "reserved_millicores", Math.round(Number(values.cores) * 1000)],
    ["memoryPercent", "memory_percent", percent(values.memoryPercent)],
    ["vcpusPercent", "vcpus_percent", percent(values.vcpusPercent)],
  ];
  const settings = all.filter(([name]) => edited(name)).map(([, name, value]) => [name, value]);
  return {
    ...(edited("zone") ? { zone: values.zone.trim() } : {}),
    ...(edited("tags") ? { tags: tagChange(host.tags, wordsOf(values.tags)) } : {}),
    ...(settings.length > 0 ? { settings: Object.fromEntries(settings) } : {}),
  };
}

export function HostOptions({ host, onClose }: { host: HostView; onClose: () => void }) {
  const form = useForm<Name>({
    prefix: "host",
    now: valuesOf(host),
    fields: FIELDS,
    check,
    deed: (values, edited) => patch(`/v1/hosts/${host.name}`, request(host, values, edited)),
    onDone: onClose,
  });
  const whole = status.value?.settings;
  return (
    <FormDialog
      title={`Change ${host.name}`}
      verb="Change"
      consequences={["No guest is moved at once: from the next move or start on, this is heeded."]}
      form={form}
      onClose={onClose}
    >
      <div class="field-row">
        <Field label="Zone" hint="Hosts that may fail together share one." {...form.field("zone")}>
          <input {...form.input("zone")} spellcheck={false} />
        </Field>
        <Field label="Speed, in %" hint="Of one of its cores: 100 is a standard host's." {...form.field("speed")}>
          <input {...form.input("speed")} inputMode="numeric" />
        </Field>
      </div>
      <Field label="Tags" hint="What rules may name it by; with blanks between them." {...form.field("tags")}>
        <input {...form.input("tags")} spellcheck={false} />
      </Field>
      <h3>Kept for itself</h3>
      <div class="field-row">
        <Field label="Memory" {...form.field("memory")}>
          <input {...form.input("memory")} spellcheck={false} />
        </Field>
        <Field label="Disk" {...form.field("disk")}>
          <input {...form.input("disk")} spellcheck={false} />
        </Field>
        <Field label="Cores" {...form.field("cores")}>
          <input {...form.input("cores")} inputMode="decimal" />
        </Field>
      </div>
      <h3>What its guests may have together</h3>
      <div class="field-row">
        <Field label="Memory, in %" hint="Of what it does not keep." {...form.field("memoryPercent")}>
          <input {...form.input("memoryPercent")} placeholder={`${whole?.memory_percent ?? 100}`} inputMode="numeric" />
        </Field>
        <Field label="Virtual CPUs, in %" hint="Of its cores." {...form.field("vcpusPercent")}>
          <input {...form.input("vcpusPercent")} placeholder={`${whole?.vcpus_percent ?? 800}`} inputMode="numeric" />
        </Field>
      </div>
      <p class="hint">Left empty, they are as the whole cluster's settings say.</p>
    </FormDialog>
  );
}

/** Somebody's word that a lost host runs nothing any more. */
export function ConfirmDead({ host, owned, onClose }: { host: HostView; owned: GuestView[]; onClose: () => void }) {
  const waiting = owned.filter(({ volumes }) => volumes.some(({ pool }) => pool === "shared")).map(({ name }) => name);
  return (
    <Confirm
      title={`Confirm that ${host.name} is dead?`}
      verb="It is dead"
      danger
      typed={host.name}
      consequences={[
        waiting.length === 0
          ? "Guests whose disks are in storage that hosts share would be started on other hosts; none of its guests waits for that."
          : `Guests whose disks are in storage that hosts share are started on other hosts: ${waiting.join(", ")}.`,
        `If ${host.name} still runs them, two machines write to the same disk, and what is on it is lost.`,
        `Say so only if you have seen that ${host.name} is off. It counts until the host is heard again.`,
      ]}
      onClose={onClose}
      onYes={() => post(`/v1/hosts/${host.name}/confirm-dead`)}
    />
  );
}
