// Where disks are put: on the hosts' own disks, and in storage that hosts share.

import { useState } from "preact/hooks";
import { post, remove } from "../data/api";
import { byName, isLive, store } from "../data/store";
import type { PoolView } from "../data/types";
import { count, size } from "../data/words";
import { Button, Card, HostLink, State } from "../parts/basic";
import { Confirm, Field } from "../parts/dialog";
import { FormDialog, found, useForm } from "../parts/form";

const WHERE: Record<string, string> = {
  local: "One copy, on the guest's own host.",
  mirror: "Two copies on two hosts, each with every write.",
};

/** Those that are always there first. */
export const poolsInOrder = (): PoolView[] =>
  [...store.pools.value.values()].sort(
    (a, b) => Number(a.storage !== null) - Number(b.storage !== null) || byName(a, b),
  );

export function Pools() {
  const [making, setMaking] = useState(false);
  const [gone, setGone] = useState<string | null>(null);
  return (
    <Card
      title="Pools"
      class="pools"
      more={
        <Button disabled={!isLive.value} onClick={() => setMaking(true)}>
          Create a pool
        </Button>
      }
    >
      <ul class="rules">
        {poolsInOrder().map((pool) => (
          <Pool key={pool.name} pool={pool} onDelete={() => setGone(pool.name)} />
        ))}
      </ul>
      {making && <Create onClose={() => setMaking(false)} />}
      {gone && (
        <Confirm
          title={`Delete the pool ${gone}?`}
          verb="Delete"
          danger
          consequences={[
            "No guest can be put into it any more.",
            "The storage itself is left as it is.",
            "It is refused while a disk is in it.",
          ]}
          onClose={() => setGone(null)}
          onYes={() => remove(`/v1/pools/${gone}`)}
        />
      )}
    </Card>
  );
}

function Pool({ pool, onDelete }: { pool: PoolView; onDelete: () => void }) {
  const { name, storage, hosts, volumes } = pool;
  const away = hosts.filter(({ reaches }) => !reaches);
  return (
    <li class="rule">
      <div class="rule-head">
        <strong>{name}</strong>
        {storage && <span class="mono">{storage.shared.path}</span>}
        <State
          of={away.length === 0 ? "online" : away.length === hosts.length ? "failed" : "waiting"}
          text={
            away.length === 0
              ? "every host reaches it"
              : `${hosts.length - away.length} of ${hosts.length} hosts reach it`
          }
        />
      </div>
      <p>{storage ? "One file for each disk, in a folder that the hosts have in common." : WHERE[name]}</p>
      {away.map(({ host, problem }) => (
        <p key={host} class="note">
          <HostLink name={host} />: {problem ?? "it does not reach it"}.
        </p>
      ))}
      <div class="rule-end">
        <span class="faint">
          {volumes === 0 ? "Nothing is in it." : `${count(volumes, "disk")}, ${size(pool.size_of_volumes)} together.`}
        </span>
        {storage && (
          <button
            type="button"
            class="quiet"
            disabled={!isLive.value}
            onClick={onDelete}
            aria-label={`Delete the pool ${name}`}
          >
            Delete
          </button>
        )}
      </div>
    </li>
  );
}

function Create({ onClose }: { onClose: () => void }) {
  const form = useForm({
    prefix: "pool",
    now: { name: "", path: "" },
    fields: [
      ["name", /of that name|name of a kind|pool name/],
      ["path", /./],
    ],
    check: ({ name, path }) =>
      found({
        name: name ? undefined : "A pool needs a name.",
        path: path.startsWith("/") ? undefined : "Write it from the root on, as in /srv/shared.",
      }),
    deed: ({ name, path }) => post("/v1/pools", { name, storage: { shared: { path } } }),
    onDone: onClose,
  });
  return (
    <FormDialog
      title="Create a pool"
      verb="Create"
      consequences={[
        "The folder must be mounted at the same path on every host that is to run guests from it.",
        "The host that this page comes from leaves a mark in it, by which the others know that they see the same folder.",
        "A disk in it has one copy: how safe that is, the storage decides. A guest comes back elsewhere only with a proof that its old host runs it no more.",
      ]}
      form={form}
      onClose={onClose}
    >
      <Field label="Name" hint="As in nfs1." {...form.field("name")}>
        <input {...form.input("name")} autocomplete="off" spellcheck={false} />
      </Field>
      <Field label="Folder" {...form.field("path")}>
        <input {...form.input("path")} placeholder="/srv/shared" spellcheck={false} />
      </Field>
    </FormDialog>
  );
}
