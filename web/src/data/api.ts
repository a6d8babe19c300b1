// Asking the host that served this page. There is no token here: the browser adds the session's cookie.

import type { Problem } from "./types";

/** A refusal in the API's own words, or a failure to reach it in ours. */
export class Refused extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail);
  }
}

/** Longer silence means that the host is gone. */
const PATIENCE_MS = 20_000;

function unreachable(asked: string, why: string): Refused {
  const instead = "see whether the host is up, and try again";
  return new Refused({
    type: "about:blank",
    title: "The host does not answer",
    status: 0,
    detail: `${asked}: ${why}; ${instead}`,
    asked,
    why,
    instead,
  });
}

function isProblem(value: unknown): value is Problem {
  return typeof value === "object" && value !== null && "why" in value && "instead" in value;
}

export async function ask<T>(method: string, path: string, body?: unknown): Promise<T> {
  const asked = `${method} ${path}`;
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      credentials: "same-origin",
      signal: AbortSignal.timeout(PATIENCE_MS),
      ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { "content-type": "application/json" } }),
    });
  } catch (error) {
    const late = error instanceof DOMException && error.name === "TimeoutError";
    throw unreachable(asked, late ? "it did not answer in time" : "the connection failed");
  }
  const answer: unknown = await response.json().catch(() => null);
  if (response.ok) return answer as T;
  if (isProblem(answer)) throw new Refused(answer);
  throw unreachable(asked, `it answered with status ${response.status}`);
}

export const get = <T>(path: string): Promise<T> => ask<T>("GET", path);
export const post = <T>(path: string, body?: unknown): Promise<T> => ask<T>("POST", path, body);
export const patch = <T>(path: string, body: unknown): Promise<T> => ask<T>("PATCH", path, body);
export const put = <T>(path: string, body: unknown): Promise<T> => ask<T>("PUT", path, body);
export const remove = <T>(path: string): Promise<T> => ask<T>("DELETE", path);

/** Of anything that was thrown, something that a form can show. */
export function problemOf(error: unknown): Problem {
  if (error instanceof Refused) return error.problem;
  return unreachable("do this", error instanceof Error ? error.message : String(error)).problem;
}
