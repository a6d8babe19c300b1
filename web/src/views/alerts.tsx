// Who is told of incidents: webhooks and mail addresses, whether they are reached, and what can be done to them.

import { useState } from "preact/hooks";
import { post, problemOf, remove } from "../data/api";
import { byName, isLive, store } from "../data/store";
import type { AlertTestView, AlertView } from "../data/types";
import { Ago, Button, Card, Empty, State } from "../parts/basic";
import { Confirm, Field } from "../parts/dialog";
import { FormDialog, found, useForm } from "../parts/form";

export function Alerts() {
  const [adding, setAdding] = useState(false);
  const [gone, setGone] = useState<string | null>(null);
  const alerts = [...store.alerts.value.values()].sort(byName);
  return (
    <Card
      title="Who is told of incidents"
      more={
        <Button disabled={!isLive.value} onClick={() => setAdding(true)}>
          Add an alert
        </Button>
      }
    >
      {alerts.length === 0 && <Empty>Nobody: incidents stand on this page alone.</Empty>}
      <ul class="rules">
        {alerts.map((alert) => (
          <Alert key={alert.name} alert={alert} onDelete={() => setGone(alert.name)} />
        ))}
      </ul>
      {adding && <Add onClose={() => setAdding(false)} />}
      {gone && (
        <Confirm
          title={`Remove the alert ${gone}?`}
          verb="Remove"
          danger
          consequences={["It is told of incidents no more, also of those that are open."]}
          onClose={() => setGone(null)}
          onYes={() => remove(`/v1/alerts/${gone}`)}
        />
      )}
    </Card>
  );
}

const where = ({ target: { way } }: AlertView): string => ("webhook" in way ? way.webhook.url : way.mail.to);

function Alert({ alert, onDelete }: { alert: AlertView; onDelete: () => void }) {
  const [answer, setAnswer] = useState<string | null>(null);
  const [asks, setAsks] = useState(false);
  const test = () => {
    setAsks(true);
    post<AlertTestView>(`/v1/alerts/${alert.name}/test`)
      .then(
        ({ problem, sent_by }) =>
          setAnswer(problem ? `${problem} (sent from ${sent_by}).` : `A test has arrived, from ${sent_by}.`),
        (error) => setAnswer(problemOf(error).why),
      )
      .finally(() => setAsks(false));
  };
  return (
    <li class="rule">
      <div class="rule-head">
        <strong>{alert.name}</strong>
        <span class="mono">{where(alert)}</span>
        <State
          of={alert.problem ? "failed" : alert.last_sent_at ? "online" : "waiting"}
          text={alert.problem ? "fails" : alert.last_sent_at ? "arrives" : "not used yet"}
        />
      </div>
      {alert.problem && <p class="message">{alert.problem}.</p>}
      {answer && <p class="note">{answer}</p>}
      <div class="rule-end">
        <span class="faint">
          {alert.target.from === "critical" ? "of critical ones only" : "of all"}
          {alert.last_sent_at && (
            <>
              , last <Ago at={alert.last_sent_at} />
            </>
          )}
        </span>
        <button
          type="button"
          class="quiet"
          disabled={!isLive.value || asks}
          onClick={test}
          aria-label={`Test ${alert.name}`}
        >
          {asks ? "Asking…" : "Test"}
        </button>
        <button
          type="button"
          class="quiet"
          disabled={!isLive.value}
          onClick={onDelete}
          aria-label={`Remove ${alert.name}`}
        >
          Remove
        </button>
      </div>
    </li>
  );
}

type Name = "way" | "url" | "to" | "server" | "user" | "secret" | "from";
type Values = Record<Name, string>;

/** Where mail is handed in with TLS from the first byte on, and where it begins within the conversation. */
const SUBMISSIONS_PORT = 465;
const SUBMISSION_PORT = 587;

const SERVER = /^(\[[0-9a-f:]+\]|[^:\s]+)(?::(\d{1,5}))?$/i;

function request({ way, url, to, server, user, secret, from }: Values): Record<string, unknown> {
  const common = { from, ...(secret ? { secret } : {}) };
  if (way === "webhook") return { ...common, way: { webhook: { url } } };
  const [, name, given] = SERVER.exec(server.trim()) ?? [];
  const port = given ? Number(given) : SUBMISSION_PORT;
  const sender = user.includes("@") ? user : to;
  const tls = port === SUBMISSIONS_PORT ? "tls" : "starttls";
  return { ...common, way: { mail: { to, sender, server: name, port, tls, user: user || null } } };
}

function Add({ onClose }: { onClose: () => void }) {
  const form = useForm<Name>({
    prefix: "alert",
    now: { way: "webhook", url: "", to: "", server: "", user: "", secret: "", from: "warning" },
    fields: [
      ["url", /URL|webhook/],
      ["to", /address/],
      ["server", /server|port/],
      ["secret", /secret|password|key/],
    ],
    check: ({ way, url, to, server }) =>
      way === "webhook"
        ? found({ url: /^https?:\/\//.test(url) ? undefined : "Write a URL, as in https://alerts.example/kennel." })
        : found({
            to: to.includes("@") ? undefined : "Write a mail address.",
            server: SERVER.test(server.trim())
              ? undefined
              : "Write a host name, as in mail.example or mail.example:465.",
          }),
    deed: (values) => post("/v1/alerts", request(values)),
    onDone: onClose,
  });
  const isMail = form.values.way === "mail";
  return (
    <FormDialog
      title="Add an alert"
      verb="Add"
      consequences={[
        "It is told when an incident opens, weighs more or less, and ends.",
        isMail
          ? "Nothing is sent unless the way to the mail server is protected by TLS."
          : "With a key each request is signed, so that the receiver knows who sent it.",
      ]}
      form={form}
      onClose={onClose}
    >
      <div class="field-row">
        <Field label="By" {...form.field("way")}>
          <select {...form.input("way")}>
            <option value="webhook">webhook</option>
            <option value="mail">mail</option>
          </select>
        </Field>
        <Field label="Of" {...form.field("from")}>
          <select {...form.input("from")}>
            <option value="warning">all incidents</option>
            <option value="critical">critical ones</option>
          </select>
        </Field>
      </div>
      {isMail ? (
        <>
          <Field label="To" {...form.field("to")}>
            <input {...form.input("to")} type="email" autocomplete="off" />
          </Field>
          <div class="field-row">
            <Field label="Mail server" hint="Port 587, unless you say another." {...form.field("server")}>
              <input {...form.input("server")} spellcheck={false} />
            </Field>
            <Field label="Account" hint="Empty: it asks for none." {...form.field("user")}>
              <input {...form.input("user")} autocomplete="off" spellcheck={false} />
            </Field>
          </div>
        </>
      ) : (
        <Field label="URL" {...form.field("url")}>
          <input {...form.input("url")} spellcheck={false} />
        </Field>
      )}
      <Field label={isMail ? "Password" : "Key"} hint="Kept secret; never shown again." {...form.field("secret")}>
        <input {...form.input("secret")} type="password" autocomplete="new-password" />
      </Field>
    </FormDialog>
  );
}
