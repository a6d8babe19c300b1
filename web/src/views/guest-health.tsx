// How well a guest is, by what that is judged, what was done about it; and the form that says all of this.

import { useState } from "preact/hooks";
import { patch } from "../data/api";
import { isLive } from "../data/store";
import type { GuestView, HealthCheck, HealthSpec, HttpCheck } from "../data/types";
import { capital, wordsOf } from "../data/words";
import { Ago, Button, Card, Facts, HostLink, State } from "../parts/basic";
import { Field } from "../parts/dialog";
import { FormDialog, found, useForm, wrongNumber } from "../parts/form";

/** What the daemon takes when nothing was said. */
const DEFAULT: HealthSpec = {
  check: "basic",
  interval_s: 2,
  timeout_s: 2,
  failures: 3,
  grace_s: 120,
  on_unhealthy: "restart",
  restart_limit: 5,
};

const isAsked = (check: HealthCheck): boolean => check !== "none" && check !== "basic";

/** As the command writes it. */
function words(check: HealthCheck): string {
  if (typeof check === "string") return check;
  if ("tcp" in check) return `tcp:${check.tcp.port}`;
  if ("command" in check) return `command:${check.command.command.join(" ")}`;
  const { port, path, tls, status, text, name, any_certificate: any } = check.http;
  const more = [name && `as ${name}`, status && `with status ${status}`, text && `with “${text}”`].filter(Boolean);
  return `${[`${tls ? "https" : "http"}:${port}${path}`, ...more].join(" ")}${any ? ", any certificate" : ""}`;
}

export function HealthCard({ guest }: { guest: GuestView }) {
  const [changing, setChanging] = useState(false);
  const spec = guest.spec.health ?? DEFAULT;
  const health = guest.phase === "running" ? guest.report?.health : null;
  const restarts = health?.restarts ?? [];
  const looks = `every ${spec.interval_s} s; ${spec.failures} failures in a row count`;
  return (
    <Card
      title="Health"
      more={
        <Button
          disabled={!isLive.value || guest.phase === "deleting"}
          onClick={() => setChanging(true)}
          aria-label="Change the health check"
        >
          Change
        </Button>
      }
    >
      <Facts
        of={[
          [
            "State",
            health ? (
              <>
                <State of={health.state === "unknown" ? "waiting" : health.state} text={health.state} />{" "}
                <span class="faint">
                  since <Ago at={health.since} />
                </span>
              </>
            ) : (
              <span class="faint">not known: it does not run</span>
            ),
          ],
          ["Shown by", <span class="mono">{words(spec.check)}</span>],
          ...(isAsked(spec.check) ? ([["Looked at", looks]] as [string, string][]) : []),
          [
            "If it is not",
            spec.on_unhealthy === "alarm"
              ? "it is left alone, and told of"
              : `it is restarted, ${spec.restart_limit} times in an hour at most`,
          ],
        ]}
      />
      {health?.message && (
        <p class={health.state === "unhealthy" ? "message bad" : "message"}>{capital(health.message)}.</p>
      )}
      {restarts.length > 0 && (
        <>
          <h3>Restarted within the last hour</h3>
          <ul class="guest-list">
            {restarts.map(({ at, host, how, why }) => (
              <li key={at}>
                <Ago at={at} />
                <span>{capital(why)}</span>
                <span class="faint">
                  {how === "elsewhere" ? "away from " : "on "}
                  <HostLink name={host} />
                </span>
              </li>
            ))}
          </ul>
        </>
      )}
      {changing && <HealthOptions guest={guest} spec={spec} onClose={() => setChanging(false)} />}
    </Card>
  );
}

type Kind = "none" | "basic" | "agent" | "disk" | "tcp" | "http" | "https" | "command";
type Name =
  | "kind"
  | "port"
  | "path"
  | "status"
  | "text"
  | "name"
  | "certificate"
  | "command"
  | "interval"
  | "timeout"
  | "failures"
  | "grace"
  | "cure"
  | "limit";
type Values = Record<Name, string>;

const KINDS: [Kind, string][] = [
  ["basic", "it has not panicked"],
  ["agent", "its guest agent answers"],
  ["disk", "it reads or writes"],
  ["tcp", "a TCP port is open"],
  ["http", "it answers over HTTP"],
  ["https", "it answers over HTTPS"],
  ["command", "a program inside it succeeds"],
  ["none", "nothing: nobody looks"],
];

function valuesOf(spec: HealthSpec): Values {
  const { check } = spec;
  const http = typeof check === "object" && "http" in check ? check.http : null;
  const tcp = typeof check === "object" && "tcp" in check ? check.tcp : null;
  const kind = typeof check === "string" ? check : http ? (http.tls ? "https" : "http") : tcp ? "tcp" : "command";
  return {
    kind,
    port: String(http?.port ?? tcp?.port ?? ""),
    path: http?.path ?? "/",
    status: String(http?.status ?? ""),
    text: http?.text ?? "",
    name: http?.name ?? "",
    certificate: http?.any_certificate ? "any" : "trusted",
    command: typeof check === "object" && "command" in check ? check.command.command.join(" ") : "",
    interval: String(spec.interval_s),
    timeout: String(spec.timeout_s),
    failures: String(spec.failures),
    grace: String(spec.grace_s),
    cure: spec.on_unhealthy,
    limit: String(spec.restart_limit),
  };
}

/** What belongs to the check itself. */
const OF_CHECK: Name[] = ["kind", "port", "path", "status", "text", "name", "certificate", "command"];

const isHttp = (kind: string): boolean => kind === "http" || kind === "https";
const hasPort = (kind: string): boolean => kind === "tcp" || isHttp(kind);

function checkOf(values: Values): HealthCheck {
  const kind = values.kind as Kind;
  const port = Number(values.port);
  if (kind === "tcp") return { tcp: { port } };
  if (kind === "command") return { command: { command: wordsOf(values.command) } };
  if (kind !== "http" && kind !== "https") return kind;
  const http: HttpCheck = {
    port,
    path: values.path.trim(),
    tls: kind === "https",
    status: values.status.trim() ? Number(values.status) : null,
    text: values.text || null,
    name: values.name.trim() || null,
    any_certificate: kind === "https" && values.certificate === "any",
  };
  return { http };
}

const PORT = /^\d{1,5}$/;

const check = (values: Values): Partial<Values> =>
  found({
    port: !hasPort(values.kind) || PORT.test(values.port.trim()) ? undefined : "Write a port, as in 80.",
    path: !isHttp(values.kind) || values.path.trim().startsWith("/") ? undefined : "A path begins with /.",
    status: !isHttp(values.kind) || !values.status.trim() ? undefined : wrongNumber(values.status),
    command: values.kind !== "command" || values.command.trim() ? undefined : "Name a program, as in /usr/bin/check.",
    interval: wrongNumber(values.interval),
    timeout: wrongNumber(values.timeout),
    failures: wrongNumber(values.failures),
    grace: wrongNumber(values.grace),
    limit: wrongNumber(values.limit),
  });

const FIELDS: [Name, RegExp][] = [
  ["kind", /asks an address of the guest|looks at its disks/],
  ["port", /\bport\b/],
  ["path", /path is none/],
  ["status", /the status/],
  ["text", /\btext\b/],
  ["name", /name of a server/],
  ["command", /command is empty/],
  ["interval", /an interval of/],
  ["timeout", /a time limit of/],
  ["failures", /failures in a row/],
  ["grace", /a grace of/],
  ["limit", /a restart limit of/],
];

/** What is asked for: only what is different. */
function request(values: Values, edited: (name: Name) => boolean): Record<string, unknown> {
  const rest: [Name, string, unknown][] = [
    ["interval", "interval_s", Number(values.interval)],
    ["timeout", "timeout_s", Number(values.timeout)],
    ["failures", "failures", Number(values.failures)],
    ["grace", "grace_s", Number(values.grace)],
    ["cure", "on_unhealthy", values.cure],
    ["limit", "restart_limit", Number(values.limit)],
  ];
  const health = Object.fromEntries(rest.filter(([name]) => edited(name)).map(([, name, value]) => [name, value]));
  return { health: OF_CHECK.some(edited) ? { ...health, check: checkOf(values) } : health };
}

function HealthOptions({ guest, spec, onClose }: { guest: GuestView; spec: HealthSpec; onClose: () => void }) {
  const form = useForm<Name>({
    prefix: "health",
    now: valuesOf(spec),
    fields: FIELDS,
    check,
    deed: (values, edited) => patch(`/v1/guests/${guest.name}`, request(values, edited)),
    onDone: onClose,
  });
  const { kind, cure } = form.values;
  const overNetwork = hasPort(kind);
  return (
    <FormDialog
      title={`The health of ${guest.name}`}
      verb="Change"
      consequences={[
        "A check counts from its first success on: one that never succeeds restarts nothing.",
        ...(overNetwork ? ["It is asked at its first address, by its host, which needs a way there."] : []),
      ]}
      form={form}
      onClose={onClose}
    >
      <Field label="It is well when" {...form.field("kind")}>
        <select {...form.input("kind")}>
          {KINDS.map(([value, text]) => (
            <option key={value} value={value}>
              {text}
            </option>
          ))}
        </select>
      </Field>
      {overNetwork && (
        <div class="field-row">
          <Field label="Port" {...form.field("port")}>
            <input {...form.input("port")} inputMode="numeric" />
          </Field>
          {isHttp(kind) && (
            <Field label="Path" {...form.field("path")}>
              <input {...form.input("path")} spellcheck={false} />
            </Field>
          )}
        </div>
      )}
      {isHttp(kind) && (
        <>
          <div class="field-row">
            <Field label="Status" hint="Empty: any below 400." {...form.field("status")}>
              <input {...form.input("status")} inputMode="numeric" />
            </Field>
            <Field label="Text in the answer" hint="Empty: whatever it says." {...form.field("text")}>
              <input {...form.input("text")} spellcheck={false} />
            </Field>
          </div>
          <Field label="Name of the server" hint="Empty: its address." {...form.field("name")}>
            <input {...form.input("name")} spellcheck={false} />
          </Field>
        </>
      )}
      {kind === "https" && (
        <Field label="Its certificate" {...form.field("certificate")}>
          <select {...form.input("certificate")}>
            <option value="trusted">must be trusted by the host, and for that name</option>
            <option value="any">may be any, also one that it signed itself</option>
          </select>
        </Field>
      )}
      {kind === "command" && (
        <Field
          label="Program"
          hint="With its arguments; run by the guest agent, and well when it ends with status 0."
          {...form.field("command")}
        >
          <input {...form.input("command")} spellcheck={false} />
        </Field>
      )}
      {kind !== "none" && kind !== "basic" && (
        <>
          <div class="field-row">
            <Field label="Looked at every, in s" {...form.field("interval")}>
              <input {...form.input("interval")} inputMode="numeric" />
            </Field>
            <Field label="One look takes at most, in s" {...form.field("timeout")}>
              <input {...form.input("timeout")} inputMode="numeric" />
            </Field>
          </div>
          <div class="field-row">
            <Field label="Failures in a row" hint="So many, and it is not well." {...form.field("failures")}>
              <input {...form.input("failures")} inputMode="numeric" />
            </Field>
            <Field label="Time to boot, in s" hint="Before failures count." {...form.field("grace")}>
              <input {...form.input("grace")} inputMode="numeric" />
            </Field>
          </div>
        </>
      )}
      {kind !== "none" && (
        <div class="field-row">
          <Field label="When it is not well" {...form.field("cure")}>
            <select {...form.input("cure")}>
              <option value="restart">restart it, here and then elsewhere</option>
              <option value="alarm">only say so</option>
            </select>
          </Field>
          {cure === "restart" && (
            <Field label="Restarts in an hour" hint="At most; then it is left alone." {...form.field("limit")}>
              <input {...form.input("limit")} inputMode="numeric" />
            </Field>
          )}
        </div>
      )}
    </FormDialog>
  );
}
