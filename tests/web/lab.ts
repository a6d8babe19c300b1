// A lab of three hosts, driven as its user would: through the kennel command.

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
export const USER = "ada";
export const PASSWORD = "correct horse battery";

const NAME = process.env.KENNEL_WEB_LAB ?? "e2e-web";
const FOLDER = join(tmpdir(), "kennel-e2e");
const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
/** Where `kennel` and `kenneld` were built. */
export const BINARIES = process.env.KENNEL_BIN ?? join(process.env.CARGO_TARGET_DIR ?? join(root, "target"), "debug");
export const SHOTS = process.env.KENNEL_SHOTS ?? join(root, "target", "web-shots");

export function kennel(words: string[], input?: string): string {
  return execFileSync(join(BINARIES, "kennel"), words, {
    encoding: "utf8",
    stdio: ["pipe", "pipe", "inherit"],
    input: input ?? "",
    env: {
      ...process.env,
      KENNEL_CONFIG: join(FOLDER, NAME, "client.toml"),
      KENNEL_LAB_NAME: NAME,
      KENNEL_LAB_DIR: FOLDER,
    },
  });
}

export const lab = (...words: string[]): string => kennel(["lab", ...words]);
export const json = <T>(...words: string[]): T => JSON.parse(kennel([...words, "-o", "json"])) as T;

interface LabHost {
  name: string;
  api: string;
  bmc: { address: string; user: string; password: string };
}

function labHost(host: string): LabHost {
  const { hosts } = JSON.parse(lab("status", "--json")) as { hosts: LabHost[] };
  const found = hosts.find(({ name }) => name === host);
  if (!found) throw new Error(`the lab has no host ${host}`);
  return found;
}

/** Where a host's API and page are, from this machine. */
export const address = (host: string): string => labHost(host).api;

/** Names a host's own BMC as its fence device. */
export function nameBmc(host: string): void {
  const { bmc } = labHost(host);
  const options = [`ip=${bmc.address}`, `username=${bmc.user}`, "lanplus=1", "cipher=3", "power_wait=0"];
  const words = ["host", "fence-device", "add", host, "bmc", "--agent", "fence_ipmilan", ...options.flatMap((option) => ["--option", option])];
  kennel([...words, "--secret", "password", "--secrets-stdin"], `${bmc.password}\n`);
}

/** A folder that every host of the lab sees. */
export function sharedFolder(): string {
  const folder = join(FOLDER, NAME, "shared");
  mkdirSync(folder, { recursive: true });
  return folder;
}

export interface Guest {
  phase: string;
  host: string | null;
  secondary: string | null;
  volumes: { phase: string }[];
}

/** Waits for something, and says what if it does not come. */
export async function until<T>(what: string, look: () => T | undefined | false): Promise<T> {
  const end = Date.now() + 150_000;
  let why = "";
  while (Date.now() < end) {
    try {
      const found = look();
      if (found) return found;
    } catch (error) {
      why = String(error);
    }
    await new Promise((done) => setTimeout(done, 250));
  }
  throw new Error(`waited in vain for ${what}: ${why}`);
}

/** A guest that runs, with both of its copies in sync. */
export const settled = (name: string): Promise<Guest> =>
  until(`${name} to run in sync`, () => {
    const guest = json<Guest>("guest", "show", name);
    return guest.phase === "running" && guest.volumes.every(({ phase }) => phase === "in-sync") && guest;
  });

/** The image that guests boot here: the one that the end-to-end tests have left, or else built by the lab itself. */
function tinyImage(): void {
  const kept = join(BINARIES, "e2e");
  const folders = existsSync(kept) ? readdirSync(kept).map((name) => join(kept, name)) : [];
  const cache = folders.find((folder) => existsSync(join(folder, "command-line")));
  if (cache === undefined) {
    kennel(["image", "build", "tiny"]);
    return;
  }
  const file = (name: string) => join(cache, name);
  const words = readFileSync(file("command-line"), "utf8");
  const parts = [file("disk"), "--kernel", file("kernel"), "--initrd", file("initrd"), "--command-line", words];
  kennel(["image", "import", "tiny", ...parts]);
}

export async function up(): Promise<void> {
  down();
  lab("up", "--hosts", "3");
  kennel(["user", "add", USER, "--password-stdin"], `${PASSWORD}\n`);
  tinyImage();
  await until("the image to be everywhere", () => {
    const hosts = json<{ report: { images: string[] } | null }[]>("host", "list");
    return hosts.every(({ report }) => report?.images.includes("tiny"));
  });
}

export function isUp(): boolean {
  try {
    return json<unknown[]>("host", "list").length === 3;
  } catch {
    return false;
  }
}

export function down(): void {
  try {
    lab("down");
  } catch {
    // There was none.
  }
}
