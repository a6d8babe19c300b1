// What can be done to a guest, each with what will happen said first.

import { useEffect, useState } from "preact/hooks";
import { get, post, remove } from "../data/api";
import { hosts } from "../data/store";
import type { GuestView, WhyView } from "../data/types";
import { size } from "../data/words";
import { Check, Confirm, Field } from "../parts/dialog";
import { FormDialog, useForm } from "../parts/form";
import { go } from "../route";
import { poolOf } from "./disks";

export type Deed = "start" | "stop" | "restart" | "move" | "delete";

interface Props {
  deed: Deed;
  guest: GuestView;
  onClose: () => void;
}

export function GuestDeed({ deed, guest, onClose }: Props) {
  const path = `/v1/guests/${guest.name}`;
  const name = guest.name;
  switch (deed) {
    case "start":
      return (
        <Confirm
          title={`Start ${name}?`}
          verb="Start"
          consequences={[
            `It boots on ${guest.host ?? "a host that the planner chooses"}, and takes ${size(guest.spec.memory)} of memory there.`,
          ]}
          onClose={onClose}
          onYes={() => post(`${path}/start`)}
        />
      );
    case "stop":
      return (
        <Confirm
          title={`Stop ${name}?`}
          verb="Stop"
          danger
          consequences={[
            "Everything that it serves is gone until it is started again.",
            `It is asked to shut down, and is ended hard after ${guest.spec.stop_timeout_s} s.`,
            isMirrored(guest) ? "Its disks stay, with both their copies." : "Its disks stay.",
          ]}
          onClose={onClose}
          onYes={() => post(`${path}/stop`)}
        />
      );
    case "restart":
      return (
        <Confirm
          title={`Restart ${name}?`}
          verb="Restart"
          danger
          consequences={[
            "It shuts down and boots again; whoever uses it is cut off meanwhile.",
            "It stays on its host.",
          ]}
          onClose={onClose}
          onYes={() => post(`${path}/restart`)}
        />
      );
    case "delete":
      return (
        <Confirm
          title={`Delete ${name}?`}
          verb="Delete for ever"
          danger
          typed={name}
          consequences={deletion(guest)}
          onClose={onClose}
          onYes={async () => {
            await remove(path);
            go("/guests");
          }}
        />
      );
    case "move":
      return <Move guest={guest} onClose={onClose} />;
  }
}

const isMirrored = (guest: GuestView): boolean => guest.volumes.some(({ pool }) => pool === "mirror");
/** The pool of a guest whose disks are in storage that hosts share. */
const sharedPool = (guest: GuestView): string | undefined =>
  guest.volumes.filter(({ pool }) => pool === "shared").map(poolOf)[0];

function deletion(guest: GuestView): string[] {
  const shared = sharedPool(guest);
  const hosts = guest.volumes.flatMap((volume) => volume.replicas.map((replica) => replica.host));
  const places = [...new Set(hosts)].join(" and ");
  const where = shared ? ` from the pool ${shared}` : places && ` on ${places}`;
  const bytes = guest.volumes.reduce((sum, volume) => sum + volume.size, 0);
  return [
    guest.phase === "stopped" ? "It does not run now." : "It ends at once: what it serves is gone.",
    `Its disks (${size(bytes)}) are deleted${where}. Nothing brings them back.`,
    "Its addresses are free for others.",
  ];
}

type Way = "live" | "slowed" | "post-copy" | "restart";

const WAYS: Record<Way, string> = {
  live: "while it runs",
  slowed: "while it runs, slowed down if need be",
  "post-copy": "while it runs, its memory fetched afterwards if need be",
  restart: "by a restart",
};
const COST: Record<Way, string> = {
  live: "While it changes hosts it stands still for a moment. If its memory changes faster than it can be sent, it stays where it is.",
  slowed: "Until it has changed hosts its processors may be slowed down; then it stands still for a moment.",
  "post-copy": "It stands still for a moment. Until all its memory is there, the loss of either host ends its run.",
  restart: "It shuts down here and boots there; whoever uses it is cut off meanwhile.",
};
const OPTIONS: Record<Way, Record<string, boolean>> = {
  live: {},
  slowed: { auto_converge: true },
  "post-copy": { post_copy: true },
  restart: { restart: true },
};

function Move({ guest, onClose }: { guest: GuestView; onClose: () => void }) {
  const [why, setWhy] = useState<WhyView | null>(null);
  useEffect(() => {
    get<WhyView>(`/v1/guests/${guest.name}/why`).then(setWhy, () => setWhy(null));
  }, []);
  const form = useForm({
    prefix: "move",
    now: { to: "", way: "live", force: "" },
    deed: ({ to, way, force }) =>
      post(`/v1/guests/${guest.name}/migrate`, {
        ...(to ? { to } : {}),
        force: force === "yes",
        options: OPTIONS[way as Way],
      }),
    onDone: onClose,
  });
  const others = hosts.value.filter((host) => host.name !== guest.host);
  const target = form.values.to || null;
  const pool = sharedPool(guest);
  const copying =
    target !== null && target === guest.secondary
      ? `${target} holds a copy of its disks already: only the guest itself goes there, and the copies change roles.`
      : "Its disks are copied to the new host first, while it runs; how long that takes depends on their size.";
  return (
    <FormDialog
      title={`Move ${guest.name}`}
      verb={target ? `Move to ${target}` : "Move"}
      ready
      consequences={[
        pool ? `Its disks stay in the pool ${pool}, which hosts share: nothing is copied.` : copying,
        COST[form.values.way as Way],
      ]}
      form={form}
      onClose={onClose}
    >
      <Field
        label="To"
        hint={(target && why?.others[target]) ?? "The planner chooses, unless you do."}
        {...form.field("to")}
      >
        <select {...form.input("to")}>
          <option value="">the best other host</option>
          {others.map((host) => (
            <option key={host.name} value={host.name} disabled={host.phase !== "online"}>
              {host.name}
              {host.name === guest.secondary ? " — holds a copy" : ""}
              {host.phase === "online" ? "" : ` — ${host.phase}`}
            </option>
          ))}
        </select>
      </Field>
      <Field label="How" {...form.field("way")}>
        <select {...form.input("way")}>
          {Object.entries(WAYS).map(([way, text]) => (
            <option key={way} value={way}>
              {text}
            </option>
          ))}
        </select>
      </Field>
      <Check
        label="Though the cluster could no longer survive what it promises to"
        name="move-force"
        checked={form.values.force === "yes"}
        onChange={(checked) => form.set("force", checked ? "yes" : "")}
      />
    </FormDialog>
  );
}
