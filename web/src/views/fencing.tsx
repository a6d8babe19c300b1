// What can take a host's power, what it says of it, and the taking.

import { useEffect, useState } from "preact/hooks";
import { post, problemOf } from "../data/api";
import { isLive } from "../data/store";
import type { Fence, FenceDevice, FenceTestView, GuestView, HostView } from "../data/types";
import { Ago, Button, Card, Empty } from "../parts/basic";
import { Confirm, Field } from "../parts/dialog";

type Deed = "fence" | "unfence";

const byLevel = ([nameA, a]: [string, FenceDevice], [nameB, b]: [string, FenceDevice]): number =>
  a.level - b.level || nameA.localeCompare(nameB);

/** What a device is told, but for its secrets. */
const told = (device: FenceDevice): string =>
  [
    device.agent,
    ...Object.entries(device.options).map(([name, value]) => `${name}=${value}`),
    ...device.secrets.map((name) => `${name} is kept secret`),
  ].join(", ");

export function FenceDevices({ host, owned }: { host: HostView; owned: GuestView[] }) {
  const [deed, setDeed] = useState<Deed | null>(null);
  const [answer, setAnswer] = useState<FenceTestView | string | null>(null);
  const [asks, setAsks] = useState(false);
  const devices = Object.entries(host.fence_devices).sort(byLevel);
  const off = !isLive.value || devices.length === 0;
  // What it said last says nothing after its power was switched.
  useEffect(() => setAnswer(null), [host.phase]);
  const test = () => {
    setAsks(true);
    post<FenceTestView>(`/v1/hosts/${host.name}/fence-test`)
      .then(setAnswer, (error) => setAnswer(problemOf(error).why))
      .finally(() => setAsks(false));
  };
  return (
    <Card
      title="Fence devices"
      more={
        devices.length > 0 && (
          <Button disabled={off || asks} onClick={test}>
            {asks ? "Asking…" : "Test"}
          </Button>
        )
      }
    >
      {host.fence && <Fencing fence={host.fence} />}
      {devices.length === 0 ? (
        <Empty>
          None. When it is lost, guests of its in storage that hosts share wait for a person.{" "}
          <span class="mono">kennel host fence-device add</span> names one.
        </Empty>
      ) : (
        <>
          <ul class="guest-list">
            {devices.map(([name, device]) => (
              <li key={name}>
                <strong>{name}</strong>
                <span class="faint">{`level ${device.level}: ${told(device)}`}</span>
                <Said answer={answer} device={name} />
              </li>
            ))}
          </ul>
          {typeof answer === "string" && <p class="message">{answer}</p>}
          <div class="dialog-end">
            <Button disabled={off} onClick={() => setDeed("unfence")}>
              Give it power
            </Button>
            <Button kind="danger" disabled={off} onClick={() => setDeed("fence")}>
              Take its power
            </Button>
          </div>
        </>
      )}
      {deed && <Ask host={host} owned={owned} deed={deed} onClose={() => setDeed(null)} />}
    </Card>
  );
}

function Said({ answer, device }: { answer: FenceTestView | string | null; device: string }) {
  const said = answer && typeof answer !== "string" ? answer.devices.find(({ name }) => name === device) : undefined;
  if (!said) return null;
  if (said.problem) return <span class="message">{said.problem}</span>;
  return <span class="tag">{said.powered ? "says: on" : "says: off"}</span>;
}

function Fencing({ fence }: { fence: Fence }) {
  if (fence.off) {
    return (
      <p>
        Its power was seen to be off by {fence.off.devices.join(", ")} <Ago at={fence.off.at} />: {fence.why}.
      </p>
    );
  }
  if (fence.reset) {
    return (
      <p>
        Its watchdog ({fence.reset.device}) must have reset it <Ago at={fence.reset.at} />: {fence.why}.
      </p>
    );
  }
  const tried = fence.tries > 1 ? ` It was tried ${fence.tries} times.` : "";
  return (
    <p class="message">
      {`${fence.asked_by} asked for its power to be taken: ${fence.why}.${tried}${fence.problem ? ` ${fence.problem}.` : ""}`}
    </p>
  );
}

function Ask({ host, owned, deed, onClose }: { host: HostView; owned: GuestView[]; deed: Deed; onClose: () => void }) {
  const [why, setWhy] = useState("");
  if (deed === "unfence") {
    return (
      <Confirm
        title={`Give ${host.name} power`}
        verb="Give it power"
        consequences={["Its devices are asked to turn it on. It boots, and takes part again by itself."]}
        onClose={onClose}
        onYes={() => post(`/v1/hosts/${host.name}/unfence`)}
      />
    );
  }
  const runs = owned.filter((guest) => guest.phase === "running").map((guest) => guest.name);
  const ends = runs.length === 0 ? "No guest runs there." : `What runs there ends at once: ${runs.join(", ")}.`;
  return (
    <Confirm
      title={`Take the power of ${host.name}`}
      verb="Take its power"
      danger
      typed={host.name}
      consequences={[
        ends,
        "Its guests start on other hosts where that can be done.",
        "It stays off until it is given power.",
      ]}
      onClose={onClose}
      onYes={() => post(`/v1/hosts/${host.name}/fence`, { force: true, why: why.trim() || null })}
    >
      <Field label="Why" hint="For the record." name="fence-why">
        <input id="fence-why" autocomplete="off" value={why} onInput={(event) => setWhy(event.currentTarget.value)} />
      </Field>
    </Confirm>
  );
}
