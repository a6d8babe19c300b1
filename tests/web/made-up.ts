// A made-up cluster behind the real API (`sim serve`), and what it costs the process that serves it.

import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Page } from "@playwright/test";
import { BINARIES } from "./lab";

/** Clock ticks of /proc: 100 a second on every Linux that matters. */
const TICKS_PER_SECOND = 100;

export interface Size {
  hosts: number;
  guests: number;
  /** Of them, on the host that answers. */
  here?: number;
  /** Changes a second. */
  rate: number;
}

export class MadeUp {
  private constructor(
    private readonly process: ChildProcess,
    readonly url: string,
    readonly token: string,
  ) {}

  static async start({ hosts, guests, here = 0, rate }: Size): Promise<MadeUp> {
    const words = ["serve", "--listen", "127.0.0.1:0", "--hosts", hosts, "--guests", guests, "--here", here, "--rate", rate];
    const child = spawn(join(BINARIES, "sim"), words.map(String), { stdio: ["ignore", "pipe", "inherit"] });
    const line = await new Promise<string>((done, fail) => {
      let text = "";
      child.stdout.on("data", (bytes: Buffer) => {
        text += bytes.toString();
        if (text.includes("\n")) done(text);
      });
      child.once("error", fail);
      child.once("exit", (code) => fail(new Error(`sim serve ended with ${code}`)));
    });
    const { url, token } = JSON.parse(line) as { url: string; token: string };
    return new MadeUp(child, url, token);
  }

  end(): void {
    this.process.kill();
  }

  /** The browser holds a session of it from now on. */
  async signIn(page: Page): Promise<void> {
    const answer = await page.request.post(`${this.url}/v1/session`, { data: { token: this.token } });
    if (!answer.ok()) throw new Error(`signing in: ${answer.status()} ${await answer.text()}`);
  }

  /** Changes of the store so far. */
  async revision(page: Page): Promise<number> {
    const headers = { authorization: `Bearer ${this.token}` };
    const text = await (await page.request.get(`${this.url}/metrics`, { headers })).text();
    return Number(/^kennel_store_revision (\S+)/m.exec(text)?.[1]);
  }

  /** Seconds of a core that it has used so far. */
  cpu(): number {
    const fields = readFileSync(`/proc/${this.process.pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
  }

  /** Resident, MiB. */
  memory(): number {
    const kib = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${this.process.pid}/status`, "utf8"))?.[1];
    return Math.round(Number(kib) / 1024);
  }
}

export function medianAndWorst(values: number[]): { median: number; worst: number } {
  const sorted = [...values].sort((a, b) => a - b);
  return { median: sorted[Math.floor(sorted.length / 2)] ?? Number.NaN, worst: sorted.at(-1) ?? Number.NaN };
}

/** A row of docs/performance.md. */
export const row = (...cells: (string | number)[]): void => console.log(`| ${cells.join(" | ")} |`);

export function timeRow(what: string, values: number[], limit: string): void {
  const { median, worst } = medianAndWorst(values);
  row(what, `${median.toFixed(0)} ms`, `${worst.toFixed(0)} ms`, limit);
}
