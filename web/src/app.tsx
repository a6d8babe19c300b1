// The frame around every view: where one is, how the cluster is, and whether what is shown is current.

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { remove } from "./data/api";
import { health } from "./data/health";
import { isLive, link, openIncidents, runningJobs, session, status } from "./data/store";
import { clock, now } from "./data/words";
import { Dot } from "./parts/basic";
import { Icon, type IconName } from "./parts/icon";
import { route } from "./route";
import { EventsView } from "./views/events";
import { GuestView } from "./views/guest";
import { CreateGuestView } from "./views/guest-create";
import { GuestsView } from "./views/guests";
import { HostView } from "./views/host";
import { HostsView } from "./views/hosts";
import { ImagesView } from "./views/images";
import { IncidentsView, IncidentView } from "./views/incidents";
import { JobsView } from "./views/jobs";
import { NetworksView } from "./views/networks";
import { OverviewView } from "./views/overview";
import { SettingsView } from "./views/settings";
import { SignInView } from "./views/sign-in";
import { TopologyView } from "./views/topology";
import { VolumesView } from "./views/volumes";

const PLACES: [string, string, IconName][] = [
  ["", "Overview", "overview"],
  ["guests", "Guests", "guests"],
  ["hosts", "Hosts", "hosts"],
  ["topology", "Topology", "topology"],
  ["jobs", "Jobs", "jobs"],
  ["incidents", "Incidents", "incidents"],
  ["events", "Events", "events"],
  ["images", "Images", "images"],
  ["networks", "Networks", "networks"],
  ["volumes", "Volumes", "volumes"],
  ["settings", "Settings", "settings"],
];

export function App() {
  if (session.value === undefined) return <p class="begin">Asking…</p>;
  if (session.value === null) return <SignInView />;
  if (!status.value && link.value.state !== "lost") return <p class="begin">Reading the cluster…</p>;
  return <Frame />;
}

function Frame() {
  const [place = "", ...rest] = route.value;
  const title = PLACES.find(([path]) => path === place)?.[1] ?? "Kennel";
  useEffect(() => {
    document.title = [rest[0] ?? title, status.value?.name, "Kennel"].filter(Boolean).join(" · ");
  }, [place, rest[0], status.value?.name]);
  return (
    <div class={isLive.value ? "frame" : "frame stale"}>
      <button type="button" class="skip" onClick={toMain}>
        To the content
      </button>
      <Sidebar place={place} />
      <div class="column">
        <LinkBanner />
        <main id="main" tabIndex={-1}>
          <View place={place} rest={rest} />
        </main>
      </div>
    </div>
  );
}

function toMain(): void {
  document.getElementById("main")?.focus();
}

function View({ place, rest }: { place: string; rest: string[] }): ComponentChildren {
  const [name, part] = rest;
  switch (place) {
    case "":
      return <OverviewView />;
    case "guests":
      if (name === undefined) return <GuestsView />;
      if (name === "new:") return <CreateGuestView />;
      return <GuestView key={name} name={name} part={part} />;
    case "hosts":
      return name === undefined ? <HostsView /> : <HostView key={name} name={name} />;
    case "topology":
      return <TopologyView />;
    case "jobs":
      return <JobsView open={name} />;
    case "incidents":
      return name === undefined ? <IncidentsView /> : <IncidentView key={name} id={Number(name)} />;
    case "events":
      return <EventsView />;
    case "images":
      return <ImagesView />;
    case "networks":
      return <NetworksView />;
    case "volumes":
      return <VolumesView />;
    case "settings":
      return <SettingsView />;
    default:
      return (
        <p class="empty">
          There is nothing under this address. <a href="#/">The overview</a> leads everywhere.
        </p>
      );
  }
}

function Sidebar({ place }: { place: string }) {
  const [open, setOpen] = useState(false);
  const jobs = runningJobs.value.length;
  const wrong = openIncidents.value.length;
  return (
    <aside class={open ? "sidebar open" : "sidebar"}>
      <div class="brand">
        <a href="#/" class="logo">
          <img src="/favicon.svg" alt="" width="26" height="26" />
          <span>
            <strong>{status.value?.name ?? "Kennel"}</strong>
            <span class="brand-health">
              <Dot colour={health.value.tone} />
              {isLive.value ? (health.value.tone === "good" ? "all is well" : "needs a look") : "not current"}
            </span>
          </span>
        </a>
        <button type="button" class="menu" aria-expanded={open} aria-controls="places" onClick={() => setOpen(!open)}>
          Menu
        </button>
      </div>
      <nav id="places" aria-label="Places">
        {PLACES.map(([path, title, icon]) => (
          <a
            key={path}
            href={`#/${path}`}
            onClick={() => setOpen(false)}
            {...(place === path ? { "aria-current": "page" as const } : {})}
          >
            <Icon name={icon} />
            <span>{title}</span>
            {path === "jobs" && jobs > 0 && (
              <span class="badge" role="img" aria-label={`${jobs} running`}>
                {jobs}
              </span>
            )}
            {path === "incidents" && wrong > 0 && (
              <span class="badge" role="img" aria-label={`${wrong} open`}>
                {wrong}
              </span>
            )}
          </a>
        ))}
      </nav>
      <div class="who">
        <span>{session.value?.name}</span>
        <button type="button" class="quiet" onClick={() => void signOut()}>
          Sign out
        </button>
      </div>
    </aside>
  );
}

async function signOut(): Promise<void> {
  await remove("/v1/session").catch(() => undefined);
  location.reload();
}

/** Says when what is shown is not current, and since when. */
function LinkBanner() {
  const state = link.value;
  if (state.state === "lost") {
    const seconds = Math.max(0, Math.ceil((state.retryAt.getTime() - now.value) / 1000));
    return (
      <div class="banner" role="alert">
        <strong>Not current.</strong> The connection to {location.host} was lost at {clock(state.since)}: {state.why}.
        What you see is from before. {seconds > 0 ? `Next try in ${seconds} s.` : "Trying again…"}
      </div>
    );
  }
  if (state.state === "connecting")
    return (
      <div class="banner" role="status">
        Connecting…
      </div>
    );
  if (status.value && !status.value.store_answers) {
    return (
      <div class="banner" role="alert">
        <strong>May be old.</strong> The state store does not answer {status.value.answered_by}: guests run on, changes
        are refused.
      </div>
    );
  }
  return null;
}
