// One host: what it carries, how loaded it is, and how to empty it.

import { useEffect, useState } from "preact/hooks";
import { get, post } from "../data/api";
import { events, isLive, status, store } from "../data/store";
import type { Duty, GuestView, HostView as Host, LossView } from "../data/types";
import { cores, count, size } from "../data/words";
import { Ago, Button, Card, Empty, Facts, GuestLink, Head, State, Tags } from "../parts/basic";
import { Load } from "../parts/chart";
import { Confirm } from "../parts/dialog";
import { EventList } from "./events";
import { FenceDevices } from "./fencing";
import { ConfirmDead, HostOptions } from "./host-options";

export function HostView({ name }: { name: string }) {
  const [duty, setDuty] = useState<Duty | null>(null);
  const [dialog, setDialog] = useState<"change" | "dead" | null>(null);
  const host = store.hosts.value.get(name);
  if (!host) {
    return (
      <>
        <Head title={name} />
        <Empty>
          There is no host {name}. <a href="#/hosts">All hosts</a>
        </Empty>
      </>
    );
  }
  const all = [...store.guests.value.values()];
  const owned = all.filter((guest) => guest.host === name);
  const copies = all.filter((guest) => guest.secondary === name);
  const problems = host.report?.problems ?? [];
  return (
    <>
      <Head
        title={name}
        note={
          <>
            <State of={host.phase} />
            {host.is_leader && <span class="tag">leads</span>}
            {host.host.duty !== "normal" && <span class="tag">{host.host.duty}</span>}
          </>
        }
      >
        {host.phase === "lost" && (
          <Button kind="danger" disabled={!isLive.value} onClick={() => setDialog("dead")}>
            Confirm that it is dead
          </Button>
        )}
        <DutyButtons host={host} onDuty={setDuty} />
      </Head>
      {problems.map((problem) => (
        <p key={problem} class="message">
          {problem}
        </p>
      ))}
      <div class="columns">
        <div>
          <Guests title="Guests that it runs" guests={owned} nothing="It runs none." />
          <Guests title="Second copies that it holds" guests={copies} nothing="It holds none." />
          <Card title="Events">
            <EventList
              events={events.value
                .filter((event) => event.subject === `host/${name}` || event.seen_by === name)
                .slice(0, 10)}
            />
          </Card>
        </div>
        <div>
          <Charts host={host} />
          <About host={host} onChange={() => setDialog("change")} />
          <FenceDevices host={host} owned={owned} />
          <IfLost name={name} guests={owned.length + copies.length} />
        </div>
      </div>
      {dialog === "change" && <HostOptions host={host} onClose={() => setDialog(null)} />}
      {dialog === "dead" && <ConfirmDead host={host} owned={owned} onClose={() => setDialog(null)} />}
      {duty && <ChangeDuty host={host} to={duty} owned={owned} copies={copies} onClose={() => setDuty(null)} />}
    </>
  );
}

function DutyButtons({ host, onDuty }: { host: Host; onDuty: (duty: Duty) => void }) {
  const off = !isLive.value;
  if (host.host.duty !== "normal") {
    return (
      <Button kind="main" disabled={off} onClick={() => onDuty("normal")}>
        Take back into service
      </Button>
    );
  }
  return (
    <>
      <Button disabled={off} onClick={() => onDuty("maintenance")}>
        Maintenance
      </Button>
      <Button disabled={off} onClick={() => onDuty("draining")}>
        Drain
      </Button>
    </>
  );
}

const VERBS: Record<Duty, string> = {
  normal: "Take back into service",
  maintenance: "Begin the maintenance",
  draining: "Drain",
};
const TITLES: Record<Duty, string> = { normal: "back into service", maintenance: "maintenance", draining: "drain" };

function ChangeDuty({
  host,
  to,
  owned,
  copies,
  onClose,
}: {
  host: Host;
  to: Duty;
  owned: GuestView[];
  copies: GuestView[];
  onClose: () => void;
}) {
  const leave =
    owned.length === 0
      ? "No guest runs there."
      : `${count(owned.length, "guest")} ${owned.length === 1 ? "leaves" : "leave"} it, one after the other: ${list(owned)}.`;
  const consequences: Record<Duty, string[]> = {
    normal: ["It takes guests and copies again.", "Nothing is moved back at once; balancing does what is worth it."],
    maintenance: [
      leave,
      "None come meanwhile.",
      `Its ${count(copies.length, "second copy").replace("copys", "copies")} stay: it will be back.`,
    ],
    draining: [
      leave,
      `${copies.length === 0 ? "It holds no second copies." : `Second copies of ${list(copies)} are made elsewhere.`}`,
      "None come until it is taken back into service.",
    ],
  };
  return (
    <Confirm
      title={`${host.name}: ${TITLES[to]}`}
      verb={VERBS[to]}
      danger={to !== "normal"}
      consequences={consequences[to]}
      onClose={onClose}
      onYes={() => post(`/v1/hosts/${host.name}/duty`, { duty: to })}
    />
  );
}

const LISTED_MAX = 6;
function list(guests: GuestView[]): string {
  const names = guests.slice(0, LISTED_MAX).map((guest) => guest.name);
  const more = guests.length - names.length;
  return more > 0 ? `${names.join(", ")} and ${more} more` : names.join(", ");
}

function Guests({ title, guests, nothing }: { title: string; guests: GuestView[]; nothing: string }) {
  return (
    <Card title={title} more={<span class="faint">{guests.length}</span>}>
      {guests.length === 0 ? (
        <Empty>{nothing}</Empty>
      ) : (
        <ul class="guest-list">
          {guests.slice(0, 200).map((guest) => (
            <li key={guest.name}>
              <GuestLink name={guest.name} />
              <span class="faint">{size(guest.spec.memory)}</span>
              <State of={guest.phase} />
            </li>
          ))}
        </ul>
      )}
    </Card>
  );
}

function Charts({ host }: { host: Host }) {
  return (
    <Load
      of={`hosts/${host.name}`}
      lines={[
        { what: "cpu", title: "CPU", say: cores, top: host.report?.cpus },
        { what: "memory", title: "Memory", say: size, top: host.report?.memory },
        { what: "disk", title: "Disk", say: (value) => `${size(value)}/s` },
        { what: "network", title: "Network", say: (value) => `${size(value)}/s` },
      ]}
    />
  );
}

/** As in `150%`; without one of its own, as the whole cluster's settings say. */
const share = (own: number | null, whole: number | undefined): string =>
  own === null ? `${whole ?? 0}%, as everywhere` : `${own}%, its own`;

function About({ host, onChange }: { host: Host; onChange: () => void }) {
  const { report } = host;
  const { settings } = host.host;
  const whole = status.value?.settings;
  const cpu = report?.compatibility;
  const kept = [
    `${size(settings.reserved_memory)} of memory`,
    ...(settings.reserved_disk > 0 ? [`${size(settings.reserved_disk)} of disk`] : []),
    ...(settings.reserved_millicores > 0 ? [count(settings.reserved_millicores / 1000, "core")] : []),
  ];
  return (
    <Card
      title="About"
      more={
        <Button disabled={!isLive.value} onClick={onChange}>
          Change
        </Button>
      }
    >
      <Facts
        of={[
          ["Address", <span class="mono">{host.host.address}</span>],
          ["Zone", host.host.zone],
          ["Tags", <Tags tags={host.host.tags} />],
          ["State store", host.host.store_member ? "runs a member" : "runs no member"],
          ["Processors", report ? `${count(report.cpus, "core")}, speed ${settings.speed_percent}%` : "not known"],
          ["Their level", cpu?.cpu_level ? [cpu.cpu_level, cpu.cpu_vendor].filter(Boolean).join(", ") : "not known"],
          ["Guests see", whole?.cpu_baseline ?? "what every host has"],
          ["Memory", report ? `${size(host.memory_assigned)} of ${size(report.memory)} given` : "not known"],
          ["Memory limit", share(settings.memory_percent, whole?.memory_percent)],
          ["CPU limit", share(settings.vcpus_percent, whole?.vcpus_percent)],
          ["Kept for itself", kept.join(", ")],
          ["Room for disks", report ? size(report.disk) : "not known"],
          [
            "Runs guests with",
            report ? <span title={report.accelerator.why}>{report.accelerator.kind}</span> : "not known",
          ],
          [
            "Versions",
            report
              ? `Kennel ${report.kennel_version}, QEMU ${report.qemu_version}, Linux ${report.kernel_version}`
              : "not known",
          ],
          ["Joined", <Ago at={host.host.joined_at} />],
        ]}
      />
    </Card>
  );
}

/** What its loss would do, asked for anew when its guests change. */
function IfLost({ name, guests }: { name: string; guests: number }) {
  const [loss, setLoss] = useState<LossView | null>(null);
  useEffect(() => {
    let current = true;
    get<LossView>(`/v1/what-if/host-loss/${name}`).then(
      (answer) => current && setLoss(answer),
      () => current && setLoss(null),
    );
    return () => {
      current = false;
    };
  }, [name, guests]);
  if (!loss) return null;
  const left = Object.entries(loss.left_out);
  return (
    <Card title="If it were lost">
      <ul class="because">
        {loss.restarts.map(({ guest, on }) => (
          <li key={guest}>
            <GuestLink name={guest} /> would come back on {on}
          </li>
        ))}
        {left.map(([guest, why]) => (
          <li key={guest}>
            <GuestLink name={guest} /> would not come back: {why}
          </li>
        ))}
        {loss.local.length > 0 && <li>{loss.local.join(", ")} would wait for it</li>}
        {loss.degraded.length > 0 && <li>{loss.degraded.join(", ")} would have one copy</li>}
        {loss.restarts.length + left.length + loss.local.length + loss.degraded.length === 0 && (
          <li>No guest would notice.</li>
        )}
      </ul>
    </Card>
  );
}
