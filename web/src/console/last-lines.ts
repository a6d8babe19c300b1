// What a guest said before: on hosts where it was earlier, and where it is when nothing runs that could be listened to.

import { get } from "../data/api";
import type { LastLines } from "../data/types";
import { clock } from "../data/words";

/** A console that works does not wait for longer for what was. */
const PATIENCE_MS = 1_000;

/** Out of the other screen (47 leaves the cursor where it is, 1049 would not), modes and colours as they begin, a line of
 * its own. */
const AFRESH = "\x1b[?47l\x1b[!p\x1b[0m\r\n";
const note = (text: string): string => `${AFRESH}\x1b[2m── ${text} ──\x1b[0m\r\n`;

const bytesOf = (base64: string): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));

export const fetchLastLines = (guest: string): Promise<LastLines | null> =>
  get<LastLines>(`/v1/guests/${guest}/last-lines`).catch(() => null);

/** `null` when that takes too long. */
export function soon<T>(answer: Promise<T>): Promise<T | null> {
  return Promise.race([answer, new Promise<null>((done) => setTimeout(() => done(null), PATIENCE_MS))]);
}

/** For a terminal. `except`: the host that tells its own part itself. */
export function sayLastLines(lines: LastLines | null, except: string | null): (string | Uint8Array<ArrayBuffer>)[] {
  if (!lines) return [];
  const said = lines.hosts
    .filter(({ host }) => host !== except)
    .flatMap(({ host, until, text }) => [bytesOf(text), note(`said on ${host}, until ${clock(until)}`)]);
  const missing = lines.silent
    .filter((host) => host !== except)
    .map((host) => note(`${host} does not answer: what was said there, if anything, is missing`));
  return [...missing, ...said];
}
