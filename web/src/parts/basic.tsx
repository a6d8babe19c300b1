// The small things that everything is made of.

import type { ComponentChildren, JSX } from "preact";
import type { Tone } from "../data/health";
import { ago, moment, now } from "../data/words";

/** What a colour means, the same everywhere. */
export type Colour = Tone | "busy" | "idle";

export const COLOURS: Record<string, Colour> = {
  running: "good",
  healthy: "good",
  online: "good",
  "in-sync": "good",
  done: "good",
  "in-force": "good",
  starting: "busy",
  restarting: "busy",
  preparing: "busy",
  stopping: "busy",
  deleting: "busy",
  syncing: "busy",
  creating: "busy",
  joining: "busy",
  undoing: "warning",
  waiting: "warning",
  degraded: "warning",
  held: "bad",
  paused: "bad",
  unhealthy: "bad",
  failed: "bad",
  unknown: "bad",
  lost: "bad",
  broken: "bad",
  error: "bad",
  critical: "bad",
  ended: "idle",
  warning: "warning",
  info: "idle",
  stopped: "idle",
  cancelled: "idle",
};

export function Dot({ colour }: { colour: Colour }) {
  return <span class={`dot ${colour}`} aria-hidden="true" />;
}

/** A state in its colour, and always in its word, too. */
export function State({ of, text }: { of: string; text?: string }) {
  const colour = COLOURS[of] ?? "idle";
  return (
    <span class={`state ${colour}`}>
      <Dot colour={colour} />
      {text ?? of.replace("-", " ")}
    </span>
  );
}

export function Ago({ at }: { at: string }) {
  return (
    <time dateTime={at} title={moment(at)}>
      {ago(at, now.value)}
    </time>
  );
}

/** A share of a whole, with the number in words beside it or in its label. */
export function Bar({ share, label, colour = "busy" }: { share: number; label: string; colour?: Colour }) {
  const width = Math.max(0, Math.min(100, share));
  return (
    <svg class={`bar ${colour}`} viewBox="0 0 100 4" preserveAspectRatio="none" role="img" aria-label={label}>
      <rect class="rail" width="100" height="4" />
      <rect class="fill" width={width} height="4" />
    </svg>
  );
}

export function Tags({ tags }: { tags: string[] }) {
  if (tags.length === 0) return <span class="faint">none</span>;
  return (
    <span class="tags">
      {tags.map((tag) => (
        <span key={tag} class="tag">
          {tag}
        </span>
      ))}
    </span>
  );
}

export const GuestLink = ({ name }: { name: string }) => <a href={`#/guests/${name}`}>{name}</a>;
export const HostLink = ({ name }: { name: string }) => <a href={`#/hosts/${name}`}>{name}</a>;

/** A heading, what stands beside it, and what can be done here. */
export function Head({
  title,
  note,
  children,
}: {
  title: ComponentChildren;
  note?: ComponentChildren;
  children?: ComponentChildren;
}) {
  return (
    <header class="head">
      <div>
        <h1>{title}</h1>
        {note && <p class="note">{note}</p>}
      </div>
      {children && <div class="actions">{children}</div>}
    </header>
  );
}

export function Card({
  title,
  more,
  children,
  class: extra = "",
}: {
  title?: ComponentChildren;
  more?: ComponentChildren;
  children: ComponentChildren;
  class?: string;
}) {
  return (
    <section class={`card ${extra}`}>
      {title && (
        <div class="card-head">
          <h2>{title}</h2>
          {more}
        </div>
      )}
      {children}
    </section>
  );
}

/** What is known of one thing, as pairs. */
export function Facts({ of }: { of: [string, ComponentChildren][] }) {
  return (
    <dl class="facts">
      {of.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

export const Empty = ({ children }: { children: ComponentChildren }) => <p class="empty">{children}</p>;

type ButtonProps = JSX.HTMLAttributes<HTMLButtonElement> & {
  kind?: "plain" | "main" | "danger";
  type?: "button" | "submit";
  disabled?: boolean;
};

export function Button({ kind = "plain", type = "button", children, ...rest }: ButtonProps) {
  return (
    <button type={type} class={`button ${kind}`} {...rest}>
      {children}
    </button>
  );
}
