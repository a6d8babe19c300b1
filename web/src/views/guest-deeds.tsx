// What can be done to a guest, each with what will happen said first.

import { useEffect, useState } from "preact/hooks";
import { get, post, remove } from "../data/api";
import { hosts } from "../data/store";
import type { GuestView, WhyView } from "../data/types";
import { size } from "../data/words";
import { Confirm, Field } from "../parts/dialog";
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

function Move({ guest, onClose }: { guest: GuestView; onClose: () => void }) {
  const [to, setTo] = useState("");
  const [why, setWhy] = useState<WhyView | null>(null);
  useEffect(() => {
    get<WhyView>(`/v1/guests/${guest.name}/why`).then(setWhy, () => setWhy(null));
  }, []);
  const others = hosts.value.filter((host) => host.name !== guest.host);
  const target = to || null;
  const isSecondary = target !== null && target === guest.secondary;
  return (
    <Confirm
      title={`Move ${guest.name}`}
      verb={target ? `Move to ${target}` : "Move"}
      consequences={[
        sharedPool(guest)
          ? `Its disks stay in the pool ${sharedPool(guest)}, which hosts share: nothing is copied.`
          : isSecondary
            ? `${target} holds a copy of its disks already: only the guest itself goes there, and the copies change roles.`
            : "Its disks are copied to the new host first, while it runs; how long that takes depends on their size.",
        "While it changes hosts it stands still for a moment; whoever looks at the job sees how.",
      ]}
      onClose={onClose}
      onYes={() => post(`/v1/guests/${guest.name}/migrate`, target ? { to: target } : {})}
    >
      <Field label="To" name="move-to" hint={(target && why?.others[target]) ?? "The planner chooses, unless you do."}>
        <select id="move-to" value={to} onChange={(event) => setTo(event.currentTarget.value)}>
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
    </Confirm>
  );
}
