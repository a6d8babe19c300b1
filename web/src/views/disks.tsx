// A guest's disks: who holds which copy, how safe that is, how far a copy is filled, and what can be done to them.

import { useEffect, useState } from "preact/hooks";
import { get } from "../data/api";
import { isLive } from "../data/store";
import type { Filled, FillHow, FillProgress, GuestView as Guest, VolumePhase, VolumeView } from "../data/types";
import { duration, percent, size } from "../data/words";
import { Ago, Bar, Button, Card, Empty, HostLink, State } from "../parts/basic";
import { VolumeDeed, type WhatToDo } from "./volume-deeds";

/** What a phase means for the data, for somebody who has never seen the word. */
const MEANING: Record<VolumePhase, string> = {
  "in-sync": "Every write that the guest was told is safe is on each copy.",
  held: "The second copy does not answer; the guest's writes wait.",
  degraded: "One copy is missing; the guest writes to the other alone.",
  syncing: "The second copy is being filled; it cannot take over yet.",
  creating: "It is not made yet.",
};

const HOW: Record<FillHow, string> = { changed: "what changed", compared: "what differs", whole: "all of it" };

/** What people call its pool. */
export const poolOf = (volume: VolumeView): string => volume.pool_name ?? volume.pool;

/** How far a fill is, and when it will be done. */
export function sayFill({ done, total, sent, bytes_per_second: speed = 0 }: FillProgress): string {
  const parts = [`${size(done)} of ${size(total)}`];
  if (sent != null) parts.push(`${size(sent)} sent`);
  if (speed > 0) parts.push(`${size(speed)}/s`, `${duration((total - done) / speed)} left`);
  return parts.join(", ");
}

const sayFilled = ({ how, why, sent, took_ms }: Filled): string =>
  `${size(sent)} in ${(took_ms / 1000).toFixed(1)} s, ${HOW[how]}${why ? `: ${why}` : ""}`;

export function Disks({ guest }: { guest: Guest }) {
  const [todo, setTodo] = useState<WhatToDo | null>(null);
  const { volumes } = guest;
  const off = !isLive.value || guest.phase === "deleting";
  const first = volumes[0];
  return (
    <Card title="Disks">
      {volumes.length === 0 && <Empty>It has no disk.</Empty>}
      {volumes.map((volume) => (
        <Disk key={volume.id} volume={volume} />
      ))}
      {first && first.pool !== "shared" && (
        <div class="disk-deeds">
          {volumes.map((volume) => (
            <Button key={volume.id} disabled={off} onClick={() => setTodo({ what: "grow", volume })}>
              {volumes.length === 1 ? "Grow" : `Grow disk ${volume.disk}`}
            </Button>
          ))}
          {first.pool === "mirror" && (
            <>
              <Button disabled={off} onClick={() => setTodo({ what: "resync", volume: first })}>
                Refill second copy
              </Button>
              <Button disabled={off} onClick={() => setTodo({ what: "replace-secondary", volume: first })}>
                Move second copy
              </Button>
            </>
          )}
          <Button disabled={off} onClick={() => setTodo({ what: "convert", volume: first })}>
            {first.pool === "mirror" ? "Keep one copy" : "Keep two copies"}
          </Button>
        </div>
      )}
      {todo && <VolumeDeed todo={todo} guest={guest} onClose={() => setTodo(null)} />}
    </Card>
  );
}

function Disk({ volume }: { volume: VolumeView }) {
  const { fill, filled } = volume;
  const healing = useHealing(volume);
  const isWell = volume.phase === "in-sync";
  return (
    <div class="disk">
      <div class="disk-head">
        <strong>Disk {volume.disk}</strong>
        <span class="faint">
          {size(volume.size)}, {poolOf(volume)}
        </span>
        <State of={volume.phase} />
      </div>
      {fill && (
        <Bar
          share={percent(fill.done, fill.total)}
          label={`second copy: ${Math.round(percent(fill.done, fill.total))}% filled`}
        />
      )}
      {fill && <p class="note">{sayFill(fill)}</p>}
      {fill?.how && (
        <p class="note">
          Sent is {HOW[fill.how]}
          {fill.why ? `: ${fill.why}` : ""}.
        </p>
      )}
      {!isWell && <p class="note">{MEANING[volume.phase]}</p>}
      {volume.degraded_since && (
        <p class="note">
          One copy alone since <Ago at={volume.degraded_since} />
          {healing ? `: ${healing}` : ""}.
        </p>
      )}
      <ul class="replicas">
        {volume.replicas.map((replica) => (
          <li key={replica.host} class={replica.in_sync ? "in-sync" : ""}>
            <HostLink name={replica.host} />
            <span class="faint">{replica.role}</span>
            <State
              of={replica.in_sync ? "in-sync" : "degraded"}
              text={!replica.in_sync ? "not in sync" : volume.pool === "shared" ? "writes it" : "holds every write"}
            />
          </li>
        ))}
      </ul>
      {isWell && filled && (
        <p class="note">
          Last filled <Ago at={filled.at} />: {sayFilled(filled)}.
        </p>
      )}
    </div>
  );
}

/** Why it has no other secondary yet: told of one volume only, so it is asked for while that is so. */
function useHealing({ id, degraded_since: since, phase }: VolumeView): string | null {
  const [healing, setHealing] = useState<string | null>(null);
  useEffect(() => {
    let current = true;
    setHealing(null);
    if (!since) return;
    get<VolumeView>(`/v1/volumes/${id}`).then(
      (answer) => current && setHealing(answer.healing ?? null),
      () => undefined,
    );
    return () => {
      current = false;
    };
  }, [id, since, phase]);
  return healing;
}
