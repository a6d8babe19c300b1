// What happened, the newest first.

import { events } from "../data/store";
import type { EventView } from "../data/types";
import { Ago, COLOURS, Dot, Empty, Head, State } from "../parts/basic";
import { type Column, Table } from "../parts/table";

/** As in `guest/web1`. */
export function Subject({ of }: { of: string }) {
  const [kind, name] = of.split("/");
  if (kind === "guest" && name) return <a href={`#/guests/${name}`}>{name}</a>;
  if (kind === "host" && name) return <a href={`#/hosts/${name}`}>{name}</a>;
  if (kind === "job" && name) return <a href={`#/jobs/${name}`}>job</a>;
  return <span>{name ?? of}</span>;
}

/** The message, led by what it is about where it does not begin with that itself. `plain`: that is clear anyway. */
function Message({ event, plain }: { event: EventView; plain: boolean }) {
  const name = event.subject.split("/")[1] ?? "";
  const begins = name !== "" && [`'${name}'`, name].find((start) => event.message.startsWith(`${start} `));
  if (begins) {
    const rest = event.message.slice(begins.length);
    return (
      <span class="event-text">
        {plain ? name : <Subject of={event.subject} />}
        {rest}
      </span>
    );
  }
  if (plain || event.subject.startsWith("job/")) {
    return (
      <span class="event-text">
        {event.subject.startsWith("job/") ? <a href={`#/jobs/${name}`}>{event.message}</a> : event.message}
      </span>
    );
  }
  return (
    <span class="event-text">
      <Subject of={event.subject} /> <span class="event-dash">·</span> {event.message}
    </span>
  );
}

export function EventList({ events, plain = false }: { events: EventView[]; plain?: boolean }) {
  if (events.length === 0) return <Empty>Nothing happened yet.</Empty>;
  return (
    <ol class="events">
      {events.map((event) => (
        <li key={event.id} class={event.severity}>
          <Dot colour={COLOURS[event.severity] ?? "idle"} />
          <Message event={event} plain={plain} />
          <Ago at={event.at} />
        </li>
      ))}
    </ol>
  );
}

const COLUMNS: Column<EventView>[] = [
  { head: "When", cell: (event) => <Ago at={event.at} />, by: (event) => -Date.parse(event.at) },
  { head: "Severity", cell: (event) => <State of={event.severity} />, by: (event) => event.severity, wide: true },
  { head: "About", cell: (event) => <Subject of={event.subject} />, by: (event) => event.subject },
  {
    head: "What",
    cell: (event) => (
      <span class="text-cell" title={event.message}>
        {event.message}
      </span>
    ),
  },
  { head: "Seen by", cell: (event) => event.seen_by, by: (event) => event.seen_by, wide: true },
];

export function EventsView() {
  return (
    <>
      <Head title="Events" note="The newest that the cluster keeps, as they happen." />
      <Table
        label="events"
        items={events.value}
        columns={COLUMNS}
        id={(event) => event.id}
        text={(event) =>
          `${event.subject} ${event.kind} ${event.severity} ${event.message} ${event.seen_by}`.toLowerCase()
        }
        nothing="Nothing happened yet."
      />
    </>
  );
}
