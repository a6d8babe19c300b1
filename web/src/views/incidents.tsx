// What went wrong, as one story each: what it means for each guest, how long each part took, what happened when.

import { incidents, isLive, store } from "../data/store";
import type { FailoverParts, IncidentView as Incident } from "../data/types";
import { capital, clock, measured, moment } from "../data/words";
import { Ago, Card, COLOURS, Dot, Empty, Facts, GuestLink, Head, State } from "../parts/basic";
import { type Column, Table } from "../parts/table";
import { Subject } from "./events";

const stateOf = (one: Incident): string => (one.incident.ended_at === null ? one.incident.weight : "ended");

export function IncidentList({ incidents }: { incidents: Incident[] }) {
  if (incidents.length === 0) return <Empty>Nothing has gone wrong.</Empty>;
  return (
    <ul class="incidents">
      {incidents.map((one) => (
        <li key={one.id}>
          <Dot colour={COLOURS[stateOf(one)] ?? "idle"} />
          <a href={`#/incidents/${one.id}`}>{capital(one.headline)}</a>
          {one.lasted_ms === null ? <Ago at={one.incident.began_at} /> : <Lasted one={one} />}
        </li>
      ))}
    </ul>
  );
}

const Lasted = ({ one }: { one: Incident }) => (
  <span class="faint" title={moment(one.incident.began_at)}>
    {one.lasted_ms === null ? "open" : `for ${measured(one.lasted_ms)}`}
  </span>
);

const COLUMNS: Column<Incident>[] = [
  { head: "Began", cell: (one) => <Ago at={one.incident.began_at} />, by: (one) => -one.id },
  { head: "State", cell: (one) => <State of={stateOf(one)} />, by: stateOf },
  {
    head: "What",
    cell: (one) => <a href={`#/incidents/${one.id}`}>{capital(one.headline)}</a>,
    by: (one) => one.headline,
  },
  { head: "Lasted", cell: (one) => <Lasted one={one} />, by: (one) => one.lasted_ms ?? Number.POSITIVE_INFINITY },
  { head: "Guests", cell: (one) => one.guests.length, by: (one) => one.guests.length, wide: true, right: true },
];

export function IncidentsView() {
  return (
    <>
      <Head title="Incidents" note="What went wrong, from the first that was seen of it until all was well again." />
      <Table
        label="incidents"
        items={incidents.value}
        columns={COLUMNS}
        id={(one) => `${one.id}`}
        text={(one) => `${one.id} ${one.headline} ${stateOf(one)} ${one.incident.subject}`.toLowerCase()}
        nothing="Nothing has gone wrong."
      />
    </>
  );
}

export function IncidentView({ id }: { id: number }) {
  const one = store.incidents.value.get(`${id}`);
  if (one === undefined) {
    return (
      <>
        <Head title={`Incident ${id}`} />
        <Empty>
          {isLive.value ? "It is not among the newest. " : "It is not known yet. "}
          <code>kennel incident show {id}</code> may still tell of it.
        </Empty>
      </>
    );
  }
  const { incident, guests } = one;
  return (
    <>
      <Head title={capital(one.headline)} note={<State of={stateOf(one)} />} />
      <div class="columns">
        <div class="second">
          <Card title="What happened">
            <Timeline one={one} />
          </Card>
        </div>
        <div>
          <Card>
            <Facts
              of={[
                ["About", <Subject of={incident.subject} key="about" />],
                ["Began", moment(incident.began_at)],
                ["Ended", incident.ended_at === null ? "not yet" : moment(incident.ended_at)],
                [
                  "Lasted",
                  one.lasted_ms === null ? <Ago at={incident.began_at} key="lasted" /> : measured(one.lasted_ms),
                ],
                ...incident.open_because.map((why): [string, string] => ["Still", capital(why)]),
              ]}
            />
          </Card>
          <Card title="What it means">
            {guests.length === 0 ? (
              <Empty>No guest has to do with it.</Empty>
            ) : (
              <dl class="meanings">
                {guests.map(({ guest, meaning, parts }) => (
                  <div key={guest}>
                    <dt>
                      <GuestLink name={guest} />
                    </dt>
                    <dd>
                      {capital(meaning)}.<Parts of={parts} />
                    </dd>
                  </div>
                ))}
              </dl>
            )}
            {incident.more_guests && <p class="note">And more guests than are shown.</p>}
          </Card>
        </div>
      </div>
    </>
  );
}

/** How long each part of a failover took, if there was one. */
function Parts({ of }: { of: FailoverParts }) {
  if (of.decide_ms === null) return null;
  const parts: [string, number | null][] = [
    ["proven in", of.prove_ms],
    ["decided in", of.decide_ms],
    ["started in", of.start_ms],
  ];
  const said = parts.flatMap(([name, ms]) => (ms === null ? [] : [`${name} ${measured(ms)}`]));
  return <span class="faint"> {capital(said.join(", "))}.</span>;
}

function Timeline({ one }: { one: Incident }) {
  const { entries, began_at, more_entries } = one.incident;
  if (entries.length === 0) return <Empty>Nothing was told of it yet.</Empty>;
  const begin = Date.parse(began_at);
  return (
    <>
      <ol class="story">
        {entries.map((entry) => {
          const after = (Date.parse(entry.at) - begin) / 1000;
          return (
            <li key={entry.event}>
              <span class="after" title={`${clock(entry.at)}, by the clock of ${entry.seen_by}`}>
                {after < 0 ? "−" : "+"}
                {Math.abs(after).toFixed(1)} s
              </span>
              <Dot colour={COLOURS[entry.severity] ?? "idle"} />
              <span class="text">{entry.message}</span>
            </li>
          );
        })}
      </ol>
      {more_entries && <p class="note">More happened; the events tell all of it.</p>}
    </>
  );
}
