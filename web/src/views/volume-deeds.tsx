// What can be done to a guest's disks while it runs, each with what will happen said first.

import { post } from "../data/api";
import { hosts } from "../data/store";
import type { GuestView, VolumeView } from "../data/types";
import { exactSize, parseSize, size } from "../data/words";
import { Check, Field } from "../parts/dialog";
import { FormDialog, found, useForm, wrongSize } from "../parts/form";

export interface WhatToDo {
  what: "grow" | "resync" | "replace-secondary" | "convert";
  /** Of the guest; all but growing goes for all of its disks. */
  volume: VolumeView;
}

interface Props {
  guest: GuestView;
  volume: VolumeView;
  onClose: () => void;
}

export function VolumeDeed({ todo: { what, volume }, guest, onClose }: Omit<Props, "volume"> & { todo: WhatToDo }) {
  const props = { guest, volume, onClose };
  switch (what) {
    case "grow":
      return <Grow {...props} />;
    case "resync":
      return <Resync {...props} />;
    case "replace-secondary":
      return <Elsewhere {...props} />;
    case "convert":
      return volume.pool === "mirror" ? <OneCopy {...props} /> : <TwoCopies {...props} />;
  }
}

const sizeOfAll = (guest: GuestView): string => size(guest.volumes.reduce((sum, volume) => sum + volume.size, 0));
const disksOf = (guest: GuestView): string => (guest.volumes.length === 1 ? "its disk" : "all its disks");
const exposed = (guest: GuestView): string =>
  `Until then ${guest.host ?? "its host"} alone holds all of it: if that host is lost meanwhile, ${guest.name} waits for it.`;

function Grow({ guest, volume, onClose }: Props) {
  const form = useForm({
    prefix: "grow",
    now: { size: exactSize(volume.size) },
    fields: [["size", /./]],
    check: (values) => found({ size: wrongSize(values.size) }),
    deed: (values) => post(`/v1/volumes/${volume.id}/grow`, { size: parseSize(values.size) }),
    onDone: onClose,
  });
  return (
    <FormDialog
      title={`Grow disk ${volume.disk} of ${guest.name}`}
      verb="Grow"
      consequences={[
        "The guest sees the new size at once; its partitions and file systems are its own business (growpart, resize2fs).",
        ...(volume.pool === "mirror" ? [`Its second copy is filled anew afterwards. ${exposed(guest)}`] : []),
        "A disk never gets smaller again.",
      ]}
      form={form}
      onClose={onClose}
    >
      <Field label="Size" hint={`It has ${size(volume.size)}; write more, as in 20G.`} {...form.field("size")}>
        <input {...form.input("size")} spellcheck={false} />
      </Field>
    </FormDialog>
  );
}

function Resync({ guest, volume, onClose }: Props) {
  const form = useForm({
    prefix: "resync",
    now: { full: "" },
    deed: (values) => post(`/v1/volumes/${volume.id}/resync`, { full: values.full === "yes" }),
    onDone: onClose,
  });
  return (
    <FormDialog
      title={`Refill the second copy of ${guest.name}`}
      verb="Refill it"
      danger
      ready
      consequences={[
        `The copy of ${disksOf(guest)} on ${guest.secondary ?? "the second host"} counts no more until it is filled.`,
        exposed(guest),
        `${guest.name} runs on meanwhile.`,
      ]}
      form={form}
      onClose={onClose}
    >
      <Check
        label={`Copy all ${sizeOfAll(guest)}, whatever is known of what changed`}
        name="resync-full"
        checked={form.values.full === "yes"}
        onChange={(checked) => form.set("full", checked ? "yes" : "")}
      />
    </FormDialog>
  );
}

/** Which host gets a second copy, and whether that is wanted though the cluster could keep its promise no more. */
function useTarget(prefix: string, path: string, more: Record<string, unknown>, onDone: () => void) {
  return useForm({
    prefix,
    now: { to: "", force: "" },
    deed: ({ to, force }) => post(path, { ...more, ...(to ? { to } : {}), force: force === "yes" }),
    onDone,
  });
}

function Target({ form, guest }: { form: ReturnType<typeof useTarget>; guest: GuestView }) {
  const others = hosts.value.filter(({ name }) => name !== guest.host && name !== guest.secondary);
  return (
    <>
      <Field label="To" hint="The planner chooses, unless you do." {...form.field("to")}>
        <select {...form.input("to")}>
          <option value="">the best host</option>
          {others.map(({ name, phase }) => (
            <option key={name} value={name} disabled={phase !== "online"}>
              {name}
              {phase === "online" ? "" : ` — ${phase}`}
            </option>
          ))}
        </select>
      </Field>
      <Check
        label="Though the cluster could no longer survive what it promises to"
        name={`${form.field("force").name}`}
        checked={form.values.force === "yes"}
        onChange={(checked) => form.set("force", checked ? "yes" : "")}
      />
    </>
  );
}

function Elsewhere({ guest, volume, onClose }: Props) {
  const form = useTarget("elsewhere", `/v1/volumes/${volume.id}/replace-secondary`, {}, onClose);
  return (
    <FormDialog
      title={`Move the second copy of ${guest.name}`}
      verb="Move it"
      ready
      consequences={[
        `It goes to another host: ${sizeOfAll(guest)} are copied there while ${guest.name} runs.`,
        `The copy on ${guest.secondary ?? "the old host"} is kept until the new one can be filled, and deleted once that is in sync.`,
        exposed(guest),
      ]}
      form={form}
      onClose={onClose}
    >
      <Target form={form} guest={guest} />
    </FormDialog>
  );
}

function TwoCopies({ guest, volume, onClose }: Props) {
  const form = useTarget("convert", `/v1/volumes/${volume.id}/convert`, { pool: "mirror" }, onClose);
  return (
    <FormDialog
      title={`Keep ${guest.name} in two copies`}
      verb="Make the second copy"
      ready
      consequences={[
        `${sizeOfAll(guest)} are copied to another host while ${guest.name} runs.`,
        "Once that is in sync, each write is on both before the guest is told that it is safe, and the loss of one host costs no data.",
      ]}
      form={form}
      onClose={onClose}
    >
      <Target form={form} guest={guest} />
    </FormDialog>
  );
}

function OneCopy({ guest, volume, onClose }: Props) {
  const form = useForm({
    prefix: "convert",
    now: { pool: "local" },
    deed: (values) => post(`/v1/volumes/${volume.id}/convert`, { pool: values.pool }),
    onDone: onClose,
  });
  return (
    <FormDialog
      title={`Keep one copy of ${guest.name} only?`}
      verb="Give the second copy up"
      danger
      ready
      consequences={[
        `The copy of ${disksOf(guest)} on ${guest.secondary ?? "the second host"} is deleted.`,
        `If ${guest.host ?? "its host"} is lost, ${guest.name} comes back only when that host does, and what its disks held is lost with them.`,
      ]}
      form={form}
      onClose={onClose}
    >
      {null}
    </FormDialog>
  );
}
