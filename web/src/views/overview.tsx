// Is all well? If not: what, and what needs a person.

import { health, problems, sentence } from "../data/health";
import { events, hosts, incidents, isLive, runningJobs, store, tally } from "../data/store";
import type { HostView } from "../data/types";
import { cores, count, percent, size } from "../data/words";
import { Bar, Card, Dot, Empty, State } from "../parts/basic";
import { EventList } from "./events";
import { IncidentList } from "./incidents";
import { JobRow } from "./jobs";

const EVENTS_SHOWN = 10;
const INCIDENTS_SHOWN = 4;
const HOSTS_SHOWN = 24;

export function OverviewView() {
  const { tone, sentence: words, reason } = health.value;
  return (
    <>
      <section class={`health ${tone}`} aria-label="Health">
        <span class="health-mark" aria-hidden="true" />
        <div>
          <h1>{words}</h1>
          <p>{reason}</p>
        </div>
        <Counts />
      </section>
      <div class="columns">
        <div class="second">
          <Card title="Hosts" more={<a href="#/hosts">all {hosts.value.length}</a>}>
            {hosts.value.slice(0, HOSTS_SHOWN).map((host) => (
              <HostLine key={host.name} host={host} />
            ))}
          </Card>
          <Card title="Recent events" more={<a href="#/events">all</a>}>
            <EventList events={events.value.slice(0, EVENTS_SHOWN)} />
          </Card>
        </div>
        <div>
          <Card title="Needs you">
            {problems.value.length === 0 ? (
              <Empty>{isLive.value ? "Nothing needs a person." : "Whether anything does is not known."}</Empty>
            ) : (
              <ul class="problems">
                {problems.value.map(({ text, tone, href }) => (
                  <li key={text}>
                    <Dot colour={tone} />
                    {href ? <a href={href}>{sentence(text)}</a> : <span>{sentence(text)}</span>}
                  </li>
                ))}
              </ul>
            )}
          </Card>
          <Card title="Incidents" more={<a href="#/incidents">all</a>}>
            <IncidentList incidents={incidents.value.slice(0, INCIDENTS_SHOWN)} />
          </Card>
          <Card title="Running jobs" more={<a href="#/jobs">all</a>}>
            {runningJobs.value.length === 0 ? (
              <Empty>No job is running.</Empty>
            ) : (
              runningJobs.value.map((job) => <JobRow key={job.id} job={job} />)
            )}
          </Card>
        </div>
      </div>
    </>
  );
}

function Counts() {
  const { running, total } = tally.value;
  return (
    <dl class="counts">
      <div>
        <dt>hosts</dt>
        <dd>
          {hosts.value.filter((host) => host.phase === "online").length}
          <small> / {hosts.value.length}</small>
        </dd>
      </div>
      <div>
        <dt>guests run</dt>
        <dd>
          {running}
          <small> / {total}</small>
        </dd>
      </div>
    </dl>
  );
}

export function HostLine({ host }: { host: HostView }) {
  const total = host.report?.memory ?? 0;
  const share = percent(host.memory_assigned, total);
  const usage = host.phase === "online" ? store.usage.value.get(host.name)?.total : undefined;
  const cpus = host.report?.cpus ?? 1;
  return (
    <a class="host-line" href={`#/hosts/${host.name}`}>
      <span class="host-name">
        <State of={host.phase} text={host.name} />
        <small>
          {host.phase !== "online"
            ? host.phase
            : host.host.duty !== "normal"
              ? host.host.duty
              : host.is_leader
                ? `${host.host.zone}, leads`
                : host.host.zone}
        </small>
      </span>
      <span class="meter">
        <small>{usage ? `CPU ${cores(usage.cpu)}` : "CPU not known"}</small>
        <Bar
          share={usage ? percent(usage.cpu, cpus) : 0}
          label={usage ? `${cores(usage.cpu)} of ${count(cpus, "core")}` : "not known"}
        />
      </span>
      <span class="meter">
        <small>
          {size(host.memory_assigned)} of {size(total)} given
        </small>
        <Bar
          share={share}
          label={`memory ${Math.round(share)}% given to guests`}
          colour={share > 90 ? "warning" : "busy"}
        />
      </span>
      <span class="host-guests">{count(host.guests, "guest")}</span>
    </a>
  );
}
