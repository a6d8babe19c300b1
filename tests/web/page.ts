// What every story shares: a page that is watched for errors and for requests that leave the cluster, a way in, and a
// look at its accessibility.

import { test as base, expect, type Page, type Route } from "@playwright/test";
import axe from "axe-core";
import { extname, join } from "node:path";
import { address, PASSWORD, SHOTS, USER } from "./lab";

interface Watched {
  /** Errors that belong to the story: parts of the browser's messages. */
  expected: string[];
}

/** A page that was built after kenneld was, instead of the one that kenneld brings along: while one works on it. */
const NEWER_PAGE = process.env.KENNEL_PAGE;

async function serveNewerPage(page: Page, folder: string): Promise<void> {
  const file = async (route: Route, path: string) => {
    // What the host says of it counts: the policy of the page is tested, too.
    const own = await route.fetch({ url: new URL("/", route.request().url()).href });
    const { "content-security-policy": policy = "" } = own.headers();
    await route.fulfill({ path: join(folder, path), headers: { "content-security-policy": policy, "content-type": KINDS[extname(path)] ?? "" } });
  };
  await page.context().route(/^https:\/\/[^/]+\/$/, (route) => file(route, "index.html"));
  await page.context().route(/^https:\/\/[^/]+\/assets\//, (route) => file(route, new URL(route.request().url()).pathname));
}

const KINDS: Record<string, string> = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8" };

export const test = base.extend<Watched>({
  expected: async ({ page }, use) => {
    if (NEWER_PAGE) await serveNewerPage(page, NEWER_PAGE);
    const expected: string[] = [];
    const errors: string[] = [];
    const foreign: string[] = [];
    page.on("console", (message) => {
      if (message.type() === "error" || message.type() === "warning") errors.push(`${message.text()} ${message.location().url}`);
    });
    page.on("pageerror", (error) => errors.push(error.message));
    page.on("request", (request) => {
      const url = new URL(request.url());
      const own = url.hostname === "127.0.0.1" || url.protocol === "data:" || url.protocol === "blob:";
      if (!own) foreign.push(request.url());
    });
    await use(expected);
    expect(foreign, "requests that leave the cluster").toEqual([]);
    const surprising = errors.filter((error) => !expected.some((part) => error.includes(part)));
    expect(surprising, "errors on the page").toEqual([]);
  },
});

export { expect };

export async function signIn(page: Page, host: string): Promise<void> {
  await page.goto(`${address(host)}/`);
  await page.getByLabel("Name").fill(USER);
  await page.getByLabel("Password").fill(PASSWORD);
  await page.getByRole("button", { name: "Sign in", exact: true }).click();
  await expect(page.locator("main h1")).toBeVisible();
  await expect(page.getByLabel("Password")).toBeHidden();
}

/** A place in the page, without a reload. */
export async function go(page: Page, place: string): Promise<void> {
  await page.evaluate((to) => {
    location.hash = to;
  }, `/${place}`);
}

export const shot = (page: Page, name: string): Promise<Buffer> =>
  page.screenshot({ path: join(SHOTS, `${name}.png`) });

/** Nothing that axe calls serious or critical. */
export async function accessible(page: Page, where: string): Promise<void> {
  await page.evaluate(axe.source);
  const found = await page.evaluate(async () => {
    const run = (window as unknown as { axe: typeof import("axe-core") }).axe.run;
    const { violations } = await run(document, { resultTypes: ["violations"] });
    return violations
      .filter(({ impact }) => impact === "serious" || impact === "critical")
      .map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => `${node.html} ${node.failureSummary ?? ""}`).slice(0, 3).join(" | ")}`);
  });
  expect.soft(found, `accessibility of ${where}`).toEqual([]);
}
