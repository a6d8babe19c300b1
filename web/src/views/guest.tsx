// One guest: its state and what can be done, its disks and who holds their copies, why it is where it is.

import { useEffect, useState } from "preact/hooks";
import { ConsolePanel, isConsole } from "../console/panel";
import { get, problemOf } from "../data/api";
import { byName, events, isLive, jobs, store } from "../data/store";
import type { GuestView as Guest, Problem, WhyView } from "../data/types";
import { capital, cores, size } from "../data/words";
import { Ago, Button, Card, Empty, Facts, Head, HostLink, State, Tags } from "../parts/basic";
import { Load } from "../parts/chart";
import { Refusal } from "../parts/dialog";
import { Icon } from "../parts/icon";
import { Disks } from "./disks";
import { EventList } from "./events";
import { type Deed, GuestDeed } from "./guest-deeds";
import { HealthCard } from "./guest-health";
import { GuestOptions } from "./guest-options";
import { addressesOf, imageOf } from "./guests";
import { JobRow } from "./jobs";
import { RuleLine } from "./rules";

const EVENTS_SHOWN = 12;
const JOBS_SHOWN = 4;

export function GuestView({ name, part }: { name: string; part: string | undefined }) {
  const [deed, setDeed] = useState<Deed | null>(null);
  const [changing, setChanging] = useState(false);
  const guest = store.guests.value.get(name);
  if (!guest) {
    return (
      <>
        <Head title={name} />
        <Empty>
          There is no guest {name}, or no more. <a href="#/guests">All guests</a>
        </Empty>
      </>
    );
  }
  const consoleOpen = isConsole(part);
  return (
    <>
      <Head title={name} note={<Phase guest={guest} />}>
        <Deeds guest={guest} consoleOpen={consoleOpen} onDeed={setDeed} />
      </Head>
      {guest.message && <p class={guest.phase === "failed" ? "message bad" : "message"}>{guest.message}</p>}
      {isConsole(part) && <ConsolePanel key={part} guest={name} kind={part} />}
      <div class="columns">
        <div>
          <Disks guest={guest} />
          <Why guest={guest} />
          <Rules name={name} />
          <Events name={name} />
        </div>
        <div>
          <About guest={guest} onChange={() => setChanging(true)} />
          <HealthCard guest={guest} />
          <Charts guest={guest} />
          <Jobs name={name} />
        </div>
      </div>
      {changing && <GuestOptions guest={guest} onClose={() => setChanging(false)} />}
      {deed && <GuestDeed deed={deed} guest={guest} onClose={() => setDeed(null)} />}
    </>
  );
}

function Phase({ guest }: { guest: Guest }) {
  return (
    <>
      <State of={guest.phase} />
      {guest.host && (
        <span>
          on <HostLink name={guest.host} />
        </span>
      )}
      {guest.report && (
        <span class="faint">
          since <Ago at={guest.report.since} />
        </span>
      )}
    </>
  );
}

function Deeds({ guest, consoleOpen, onDeed }: { guest: Guest; consoleOpen: boolean; onDeed: (deed: Deed) => void }) {
  // One that went down by itself is still to run: it is started anew, or stopped for good.
  const isDown = guest.phase === "stopped" || guest.phase === "failed";
  const isWanted = guest.spec.power === "running";
  const off = !isLive.value || guest.phase === "deleting";
  const to = consoleOpen ? `#/guests/${guest.name}` : `#/guests/${guest.name}/console`;
  return (
    <>
      <a class="button main" href={to}>
        <Icon name="console" /> {consoleOpen ? "Close the console" : "Console"}
      </a>
      {isDown || !isWanted ? (
        <Button disabled={off} onClick={() => onDeed("start")}>
          Start
        </Button>
      ) : (
        <Button disabled={off} onClick={() => onDeed("restart")}>
          Restart
        </Button>
      )}
      {isWanted && (
        <Button disabled={off} onClick={() => onDeed("stop")}>
          Stop
        </Button>
      )}
      <Button disabled={off} onClick={() => onDeed("move")}>
        Move
      </Button>
      <Button disabled={off} kind="danger" onClick={() => onDeed("delete")}>
        Delete
      </Button>
    </>
  );
}

/** Asked for anew whenever the guest is somewhere else, as long as there will be an answer. */
function Why({ guest }: { guest: Guest }) {
  const [why, setWhy] = useState<WhyView | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const place = `${guest.host} ${guest.secondary} ${guest.phase}`;
  useEffect(() => {
    if (guest.phase === "deleting") return;
    let current = true;
    get<WhyView>(`/v1/guests/${guest.name}/why`).then(
      (answer) => {
        if (!current) return;
        setWhy(answer);
        setProblem(null);
      },
      (error: unknown) => current && setProblem(problemOf(error)),
    );
    return () => {
      current = false;
    };
  }, [place]);
  const now = guest.assignment?.why;
  return (
    <Card title="Why it is where it is">
      {now && !why?.because.includes(now) && <p class="why-now">{capital(now)}.</p>}
      <Refusal problem={problem} />
      {why && (
        <>
          <ul class="because">
            {why.because.map((text) => (
              <li key={text}>{capital(text)}</li>
            ))}
            {why.rules.map((text) => (
              <li key={text}>{capital(text)}</li>
            ))}
          </ul>
          {why.cannot_move && <p class="note">Not moved now: {why.cannot_move}.</p>}
          {Object.keys(why.others).length > 0 && (
            <>
              <h3>Elsewhere</h3>
              <dl class="others">
                {Object.entries(why.others).map(([host, text]) => (
                  <div key={host}>
                    <dt>
                      <HostLink name={host} />
                    </dt>
                    <dd>{text}</dd>
                  </div>
                ))}
              </dl>
            </>
          )}
        </>
      )}
    </Card>
  );
}

/** Those that bind it. */
function Rules({ name }: { name: string }) {
  const mine = [...store.rules.value.values()].filter((view) => view.guests.includes(name)).sort(byName);
  if (mine.length === 0) return null;
  return (
    <Card title="Rules that bind it" more={<a href="#/settings">All rules</a>}>
      <ul class="rules">
        {mine.map((view) => (
          <RuleLine key={view.name} view={view} />
        ))}
      </ul>
    </Card>
  );
}

function About({ guest, onChange }: { guest: Guest; onChange: () => void }) {
  const { spec, report, assignment } = guest;
  const addresses = addressesOf(guest);
  const nics = spec.nics.map((nic) => `${nic.network} (${nic.mac})`).join(", ");
  return (
    <Card
      title="About"
      more={
        <Button disabled={!isLive.value || guest.phase === "deleting"} onClick={onChange}>
          Change
        </Button>
      }
    >
      <Facts
        of={[
          [
            "Address",
            addresses.length > 0 ? <span class="mono">{addresses.join(", ")}</span> : <span class="faint">none</span>,
          ],
          ["Memory", size(spec.memory)],
          ["CPUs", spec.vcpus],
          ["Image", imageOf(guest) ?? "none"],
          ["Network", nics || "none"],
          ["Second copy on", guest.secondary ? <HostLink name={guest.secondary} /> : <span class="faint">none</span>],
          ["Placement", assignment ? `epoch ${assignment.epoch}` : "none yet"],
          ["Runs with", report?.accelerator ?? "not known"],
          ["Priority", spec.priority],
          ["Moving it", spec.pinned ? "only when somebody says so" : "is up to the planner"],
          ["Starts after", spec.start_after.length > 0 ? spec.start_after.join(", ") : <span class="faint">none</span>],
          ["Stop limit", `${spec.stop_timeout_s} s`],
          ["Tags", <Tags tags={spec.tags} />],
          ["Made", <Ago at={spec.created_at} />],
        ]}
      />
    </Card>
  );
}

function Charts({ guest }: { guest: Guest }) {
  return (
    <Load
      of={`guests/${guest.name}`}
      lines={[
        { what: "cpu", title: "CPU", say: cores, top: guest.spec.vcpus },
        { what: "memory", title: "Memory", say: size, top: guest.spec.memory },
        { what: "disk", title: "Disk", say: (value) => `${size(value)}/s` },
        { what: "network", title: "Network", say: (value) => `${size(value)}/s` },
      ]}
    />
  );
}

function Events({ name }: { name: string }) {
  const mine = events.value.filter((event) => event.subject === `guest/${name}`);
  return (
    <Card title="Events">
      <EventList events={mine.slice(0, EVENTS_SHOWN)} plain />
    </Card>
  );
}

/** The jobs that name it. */
function Jobs({ name }: { name: string }) {
  const mine = jobs.value.filter((job) => job.what.split(" ").includes(name));
  if (mine.length === 0) return null;
  return (
    <Card title="Jobs">
      {mine.slice(0, JOBS_SHOWN).map((job) => (
        <JobRow key={job.id} job={job} />
      ))}
    </Card>
  );
}
