// What holds for the whole cluster, its state store, its rules, and who may sign in.

import { useState } from "preact/hooks";
import { post, remove } from "../data/api";
import { byName, session, status, store } from "../data/store";
import type { ClusterStatus } from "../data/types";
import { Ago, Button, Card, Empty, Facts, Head, State } from "../parts/basic";
import { Confirm, Field } from "../parts/dialog";
import { Alerts } from "./alerts";
import { Rules } from "./rules";
import { ChangeCluster } from "./settings-cluster";

export function SettingsView() {
  const cluster = status.value;
  if (!cluster) return null;
  return (
    <>
      <Head title="Settings" />
      <div class="columns even">
        <div>
          <ChangeCluster cluster={cluster} />
        </div>
        <div>
          <About cluster={cluster} />
          <Rules />
          <Alerts />
          <Users />
        </div>
      </div>
    </>
  );
}

function About({ cluster }: { cluster: ClusterStatus }) {
  return (
    <Card title={cluster.name}>
      <Facts
        of={[
          ["Made", <Ago at={cluster.created_at} />],
          ["Leader", cluster.leader ?? "none"],
          ["This page comes from", cluster.answered_by],
          ["Store members", cluster.settings.store_members],
          ["Identity", <span class="mono small">{cluster.id}</span>],
        ]}
      />
      <h3>State store</h3>
      <ul class="guest-list">
        {cluster.store_members.map((member) => (
          <li key={member.host}>
            <a href={`#/hosts/${member.host}`}>{member.host}</a>
            <span class="faint">{member.is_leader ? "leads the store" : (member.message ?? "")}</span>
            <State of={member.healthy ? "online" : "failed"} text={member.healthy ? "well" : "not well"} />
          </li>
        ))}
      </ul>
    </Card>
  );
}

function Users() {
  const [adding, setAdding] = useState(false);
  const [gone, setGone] = useState<string | null>(null);
  const [form, setForm] = useState({ name: "", password: "" });
  const users = [...store.users.value.values()].sort(byName);
  const set = (name: keyof typeof form) => (event: { currentTarget: HTMLInputElement }) => {
    const { value } = event.currentTarget;
    setForm((old) => ({ ...old, [name]: value }));
  };
  return (
    <Card title="Who may sign in" more={<Button onClick={() => setAdding(true)}>Add</Button>}>
      {users.length === 0 && <Empty>Nobody with a password; tokens open this page, too.</Empty>}
      <ul class="guest-list">
        {users.map((user) => (
          <li key={user.name}>
            <strong>{user.name}</strong>
            <span class="faint">{user.name === session.value?.name ? "you" : ""}</span>
            <button type="button" class="quiet" onClick={() => setGone(user.name)} aria-label={`Remove ${user.name}`}>
              Remove
            </button>
          </li>
        ))}
      </ul>
      {adding && (
        <Confirm
          title="Add a user"
          verb="Add"
          consequences={["May do everything that an operator may."]}
          onClose={() => setAdding(false)}
          onYes={() => post("/v1/users", form)}
        >
          <Field label="Name" name="user-name">
            <input id="user-name" value={form.name} onInput={set("name")} autocomplete="off" required />
          </Field>
          <Field label="Password" name="user-password" hint="8 characters or more.">
            <input
              id="user-password"
              type="password"
              value={form.password}
              onInput={set("password")}
              autocomplete="new-password"
              required
            />
          </Field>
        </Confirm>
      )}
      {gone && (
        <Confirm
          title={`Remove ${gone}?`}
          verb="Remove"
          danger
          consequences={[`${gone} is signed out everywhere, and can sign in no more.`]}
          onClose={() => setGone(null)}
          onYes={() => remove(`/v1/users/${gone}`)}
        />
      )}
    </Card>
  );
}
