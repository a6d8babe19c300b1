// Not a test: fills a lab with guests and takes the pictures of the README, in light and in dark.

import { mkdirSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { json, kennel, settled } from "./lab";
import { expect, go, signIn, test } from "./page";

const FOLDER = join(dirname(fileURLToPath(import.meta.url)), "../../docs/images");
/** They are read over slow lines, too. */
const BYTES_MAX = 150_000;
/** With their tags. Small ones: they run under emulation. */
const GUESTS: [string, string[]][] = [
  ["web1", ["web"]],
  ["web2", ["web"]],
  ["mail1", []],
  ["db1", ["db"]],
];

/** The name, where it is, and how much of it is worth looking at. */
const PICTURES: [string, string, number][] = [
  ["overview", "", 720],
  ["topology", "topology", 330],
  ["guest", "guests/web1", 740],
  ["console", "guests/web1/console", 640],
];

function fill(): void {
  for (const [name, tags] of GUESTS) {
    kennel(["guest", "create", name, "--image", "tiny", "--no-wait", ...tags.flatMap((tag) => ["--tag", tag])]);
  }
  kennel(["rule", "create", "web-apart", "--kind", "apart", "--guests", "tag:web", "--should"]);
  kennel(["host", "set", "host3", "--tag", "ssd"]);
}

test("the pictures of the README", async ({ page, expected }) => {
  expected.push("nothing is expected");
  mkdirSync(FOLDER, { recursive: true });
  if (json<unknown[]>("guest", "list").length === 0) fill();
  for (const [name] of GUESTS) await settled(name);
  await signIn(page, "host1");
  await expect(page.getByRole("heading", { level: 1 })).toHaveText("All is well.");
  await go(page, "guests/web1/console");
  await talk();
  for (const colorScheme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    await page.reload();
    for (const [name, place, height] of PICTURES) {
      await page.setViewportSize({ width: 1280, height });
      await go(page, place);
      await expect(page.locator("main h1")).toBeVisible();
      if (name === "guest") await expect(page.locator(".chart .line")).not.toHaveCount(0);
      if (name === "console") await expect(page.locator(".xterm-rows")).toContainText("root#");
      const path = join(FOLDER, `${name}-${colorScheme}.png`);
      await page.screenshot({ path, caret: "hide" });
      expect(statSync(path).size, path).toBeLessThan(BYTES_MAX);
    }
  }

  /** Something to look at. */
  async function talk(): Promise<void> {
    await expect(page.locator(".console-head .state")).toHaveText("open");
    await page.locator(".xterm-helper-textarea").focus();
    await page.keyboard.type("\nclear; uname -a; free -m; df -h | head -4\n");
    await expect(page.locator(".xterm-rows")).toContainText(/Mem:.*root#/s);
  }
});
