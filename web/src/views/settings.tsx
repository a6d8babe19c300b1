// What holds for the whole cluster, its state store, its rules, and who may sign in.

import { useState } from "preact/hooks";
import { patch, post, problemOf, remove } from "../data/api";
import { byName, isLive, session, status, store } from "../data/store";
import type { ClusterStatus, Problem, Settings } from "../data/types";
import { Ago, Button, Card, Empty, Facts, Head, State } from "../parts/basic";
import { Confirm, Field, Refusal } from "../parts/dialog";

export function SettingsView() {
  const cluster = status.value;
  if (!cluster) return null;
  return (
    <>
      <Head title="Settings" />
      <div class="columns even">
        <div>
          <Change settings={cluster.settings} />
          <Rules />
        </div>
        <div>
          <About cluster={cluster} />
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

type Form = { balance: string; survive: string; moves: string; memory: string; vcpus: string; starts: string };

const formOf = (settings: Settings): Form => ({
  balance: settings.balance,
  survive: settings.survive === "zone" ? "zone" : String(settings.survive.hosts),
  moves: String(settings.balance_moves_at_once),
  memory: String(settings.memory_percent),
  vcpus: String(settings.vcpus_percent),
  starts: String(settings.recovery_starts_per_host),
});

/** Only what was changed. */
function changes(form: Form, settings: Settings): Record<string, unknown> {
  const old = formOf(settings);
  const values: [keyof Form, string, unknown][] = [
    ["balance", "balance", form.balance],
    ["survive", "survive", form.survive === "zone" ? "zone" : { hosts: Number(form.survive) }],
    ["moves", "balance_moves_at_once", Number(form.moves)],
    ["memory", "memory_percent", Number(form.memory)],
    ["vcpus", "vcpus_percent", Number(form.vcpus)],
    ["starts", "recovery_starts_per_host", Number(form.starts)],
  ];
  return Object.fromEntries(
    values.filter(([name]) => form[name] !== old[name]).map(([, name, value]) => [name, value]),
  );
}

const FIELDS: [keyof Form, RegExp][] = [
  ["moves", /moves/],
  ["memory", /memory/],
  ["vcpus", /CPU/],
  ["starts", /start/],
  ["survive", /surviv|hosts/],
];

function Change({ settings }: { settings: Settings }) {
  const [edited, setEdited] = useState<Partial<Form>>({});
  const [problem, setProblem] = useState<Problem | null>(null);
  const [busy, setBusy] = useState(false);
  const form = { ...formOf(settings), ...edited };
  const field = problem && FIELDS.find(([, pattern]) => pattern.test(problem.why))?.[0];
  const wrong = (name: keyof Form) => (problem && field === name ? `${problem.why}; ${problem.instead}.` : undefined);
  const bind = (name: keyof Form) => ({
    id: `set-${name}`,
    value: form[name],
    onInput: (event: { currentTarget: HTMLInputElement | HTMLSelectElement }) => {
      const { value } = event.currentTarget;
      setEdited((old) => ({ ...old, [name]: value }));
      setProblem(null);
    },
  });
  const todo = changes(form, settings);
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await patch("/v1/cluster/settings", todo);
      setEdited({});
    } catch (error) {
      setProblem(problemOf(error));
    } finally {
      setBusy(false);
    }
  };
  return (
    <Card title="For the whole cluster">
      <form noValidate onSubmit={(event) => void submit(event)}>
        <Field label="Balancing" name="set-balance" hint="Whether guests are moved to spread the load.">
          <select {...bind("balance")}>
            <option value="automatic">is done</option>
            <option value="manual">is proposed, and waits for a yes</option>
            <option value="off">is off</option>
          </select>
        </Field>
        <Field label="Room is kept for the loss of" name="set-survive" wrong={wrong("survive")}>
          <select {...bind("survive")}>
            <option value="0">nothing</option>
            <option value="1">any one host</option>
            <option value="2">any two hosts</option>
            <option value="zone">any one zone</option>
          </select>
        </Field>
        <div class="field-row">
          <Field label="Memory given, in %" name="set-memory" wrong={wrong("memory")} hint="Of what hosts have.">
            <input {...bind("memory")} inputMode="numeric" />
          </Field>
          <Field label="CPUs given, in %" name="set-vcpus" wrong={wrong("vcpus")} hint="Of hosts' cores.">
            <input {...bind("vcpus")} inputMode="numeric" />
          </Field>
        </div>
        <div class="field-row">
          <Field label="Moves at once" name="set-moves" wrong={wrong("moves")}>
            <input {...bind("moves")} inputMode="numeric" />
          </Field>
          <Field label="Starts at once on a host" name="set-starts" wrong={wrong("starts")} hint="After a loss.">
            <input {...bind("starts")} inputMode="numeric" />
          </Field>
        </div>
        {problem && !field && <Refusal problem={problem} />}
        <div class="form-end">
          <Button type="submit" kind="main" disabled={busy || Object.keys(todo).length === 0 || !isLive.value}>
            {busy ? "Asking…" : "Save"}
          </Button>
        </div>
      </form>
    </Card>
  );
}

function Rules() {
  const rules = [...store.rules.value.values()].sort(byName);
  return (
    <Card title="Placement rules" more={<span class="faint">“kennel rule” changes them</span>}>
      {rules.length === 0 && <Empty>There is no rule: guests go where they are best off.</Empty>}
      <ul class="guest-list">
        {rules.map(({ name, state, notes, guests, rule }) => (
          <li key={name}>
            <strong>{name}</strong>
            <span class="faint">
              {rule.strength} {typeof rule.kind === "string" ? rule.kind : Object.keys(rule.kind)[0]}:{" "}
              {guests.join(", ") || "nobody yet"}
              {notes.length > 0 && ` (${notes.join("; ")})`}
            </span>
            <State of={state} />
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
