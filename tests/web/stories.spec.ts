// An operator's day: sign in, make a guest, type into it, lose a host, read why. One lab for all of it, in this order.

import { address, type Guest, json, kennel, lab, nameBmc, settled, sharedFolder, until } from "./lab";
import { accessible, expect, go, shot, signIn, test } from "./page";

const GUEST = "pet1";
/** What the tiny image says when it is up. */
const GREETING = "KENNEL-GUEST-UP";
const PLACES = ["", "guests", `guests/${GUEST}`, "guests/new:", "hosts", "hosts/host2", "topology", "jobs", "incidents", "events", "images", "networks", "volumes", "settings"];

test("a wrong password is refused beside its field, and the right one opens the overview", async ({ page, expected }) => {
  expected.push("401");
  await page.goto(`${address("host1")}/`);
  await accessible(page, "the way in");
  await shot(page, "sign-in");
  await page.getByLabel("Name").fill("ada");
  await page.getByLabel("Password").fill("guess");
  await page.keyboard.press("Enter");
  await expect(page.locator("#password-wrong")).toContainText("The name or the password is wrong.");
  await signIn(page, "host1");
  await expect(page.getByRole("heading", { level: 1 })).toHaveText("All is well.");
  await expect(page.getByRole("heading", { level: 1 })).toBeVisible();
  const cookies = await page.context().cookies();
  expect(cookies.map(({ httpOnly, secure, sameSite }) => [httpOnly, secure, sameSite])).toEqual([[true, true, "Strict"]]);
  expect(await page.evaluate(() => document.cookie)).toBe("");
});

test("a guest is created in the form, boots in the serial console, and is typed into", async ({ page, expected }) => {
  expected.push("422", "409");
  await signIn(page, "host1");
  await go(page, "guests/new:");
  await page.getByLabel("Name").fill("Not A Name");
  await page.getByRole("button", { name: "Create and start" }).click();
  await expect(page.locator("#name-wrong")).toContainText("lower-case letters");
  await page.getByLabel("Name").fill(GUEST);
  await page.getByLabel("Address").fill("192.0.2.7");
  await page.getByRole("button", { name: "Create and start" }).click();
  await expect(page.locator("#address-wrong")).toBeVisible();
  await shot(page, "create-refused");
  await page.getByLabel("Address").fill("");
  await page.getByRole("button", { name: "Create and start" }).click();
  await expect(page.getByRole("heading", { level: 1 })).toHaveText(GUEST);
  await expect(page.locator(".head .state")).toHaveText("running");
  await page.getByRole("link", { name: "Console" }).click();
  const terminal = page.locator(".xterm-accessibility, .xterm-rows");
  await expect(terminal.first()).toContainText(GREETING);
  await page.locator(".xterm-helper-textarea").focus();
  await page.keyboard.type("\n echo the answer is $((6*7))\n");
  await expect(terminal.first()).toContainText("the answer is 42");
  await shot(page, "console");
  await settled(GUEST);
  await expect(page.locator(".disk-head .state")).toHaveText("in sync");
});

test("the guest's screen is seen and typed on", async ({ page, expected }) => {
  // What the test reads the picture with, the browser would rather be told of beforehand.
  expected.push("willReadFrequently");
  await signIn(page, "host2");
  await go(page, `guests/${GUEST}/console`);
  await page.getByRole("link", { name: "Screen" }).click();
  const canvas = page.getByRole("region", { name: `Screen of ${GUEST}` }).locator("canvas");
  const lit = () =>
    canvas.evaluate((element) => {
      const { width, height } = element as HTMLCanvasElement;
      // No picture has come yet.
      if (width === 0) return 0;
      const { data } = (element as HTMLCanvasElement).getContext("2d")!.getImageData(0, 0, width, height);
      return data.filter((value, at) => at % 4 !== 3 && value > 64).length;
    });
  await expect.poll(lit, { message: "something is on the screen" }).toBeGreaterThan(100);
  const before = await lit();
  await canvas.click();
  await page.keyboard.type("echo typed on the screen\n");
  await expect.poll(lit, { message: "what is typed appears" }).toBeGreaterThan(before + 100);
  await shot(page, "screen");
});

test("what a guest used is drawn, and read with the arrow keys", async ({ page, expected }) => {
  expected.push("nothing is expected");
  await signIn(page, "host2");
  await go(page, `guests/${GUEST}`);
  const load = page.locator(".card", { has: page.getByRole("heading", { name: "Load" }) });
  await expect(load.locator(".chart", { hasText: "CPU" }).locator(".line")).not.toHaveCount(0);
  await load.locator(".charts").focus();
  await page.keyboard.press("End");
  await expect(load.locator(".moment")).toHaveCount(4);
  await expect(load.locator(".chart-foot")).toContainText(String(new Date().getFullYear()));
  await load.getByRole("button", { name: "day" }).click();
  await expect(load.getByRole("button", { name: "day" })).toHaveAttribute("aria-pressed", "true");
  await expect(load.locator(".chart-foot")).toHaveText("the last day");
});

test("a guest that went down still shows its last words, and its console opens by itself when it is back", async ({ page, expected }) => {
  // There is no machine to listen to: the ticket is refused, in words.
  expected.push("409");
  await signIn(page, "host1");
  await go(page, `guests/${GUEST}/console`);
  const panel = page.getByRole("region", { name: `Serial console of ${GUEST}` });
  const said = panel.locator(".xterm-rows");
  await expect(panel.locator(".console-head .state")).toHaveText("open");
  await panel.locator(".xterm-helper-textarea").focus();
  await page.keyboard.type("\n echo its last word is $((6*7)); poweroff -f\n");
  await expect(page.locator(".head .state")).toHaveText("stopped");
  await page.reload();
  await expect(panel.getByRole("alert")).toContainText("It is stopped.");
  await expect(said).toContainText("its last word is 42");
  await shot(page, "last-words");
  await accessible(page, "the console of a guest that is down");
  kennel(["guest", "start", GUEST, "--no-wait"]);
  await expect(panel.locator(".console-head .state")).toHaveText("open");
  await expect(said).toContainText(GREETING);
  await settled(GUEST);
});

test("what an operator says of the cluster, its rules and a guest is taken, or refused beside its field", async ({ page, expected }) => {
  expected.push("400", "409", "422");
  kennel(["cluster", "set", "--heal-after", "30m"]);
  await signIn(page, "host2");
  await go(page, "settings");
  await page.getByLabel("Moves at once").fill("99");
  await page.getByRole("button", { name: "Save" }).click();
  await expect(page.locator("#set-moves-wrong")).toContainText("99 moves");
  await page.getByLabel("Moves at once").fill("2");
  await page.getByLabel("New second copy after").fill("45m");
  await page.getByRole("button", { name: "Save" }).click();
  await expect(page.getByRole("button", { name: "Save" })).toBeDisabled();
  expect(json<{ settings: { heal_after_s: number } }>("cluster", "status").settings.heal_after_s).toBe(45 * 60);

  await page.getByRole("button", { name: "Create a rule" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Name").fill("at-home");
  await dialog.getByLabel("Guests").fill("nobody");
  await dialog.getByRole("button", { name: "Create" }).click();
  await expect(dialog.locator("#rule-guests-wrong")).toContainText("nobody");
  await dialog.getByLabel("Guests").fill("tag:pet");
  await dialog.getByLabel("What it asks of them").selectOption("at-most");
  await shot(page, "rule");
  await accessible(page, "a rule that is made");
  await dialog.getByRole("button", { name: "Create" }).click();
  const rule = page.locator(".rule", { hasText: "at-home" });
  await expect(rule).toContainText("at most 1 on a host");

  await go(page, `guests/${GUEST}`);
  await page.getByRole("button", { name: "Change", exact: true }).press("Enter");
  await expect(dialog.getByLabel("Memory")).toBeDisabled();
  await dialog.getByLabel("Tags").fill("pet no/tag");
  await dialog.getByRole("button", { name: "Change" }).click();
  await expect(dialog.locator("#option-tags-wrong")).toContainText("no/tag");
  await dialog.getByLabel("Tags").fill("pet");
  await dialog.getByRole("button", { name: "Change" }).click();
  await expect(dialog).toBeHidden();
  await expect(page.locator(".card", { hasText: "Rules that bind it" })).toContainText("at-home");

  await go(page, "settings");
  await page.getByRole("button", { name: "Delete at-home" }).click();
  await dialog.getByRole("button", { name: "Delete" }).click();
  await expect(rule).toBeHidden();
});

test("how a guest is seen to be well, who is told of incidents and what a storm is are said on the page", async ({ page, expected }) => {
  expected.push("400", "422");
  await signIn(page, "host2");
  const dialog = page.getByRole("dialog");
  const health = page.locator(".card", { has: page.getByRole("heading", { name: "Health", exact: true }) });
  await go(page, `guests/${GUEST}`);
  await expect(health.locator(".state")).toHaveText("healthy");
  await health.getByRole("button", { name: "Change the health check" }).click();
  await dialog.getByLabel("It is well when").selectOption("https");
  await dialog.getByLabel("Port").fill("443");
  await dialog.getByLabel("Name of the server").fill("192.0.2.1");
  await dialog.getByRole("button", { name: "Change" }).click();
  await expect(dialog.locator("#health-name-wrong")).toContainText("is no name of a server");
  await shot(page, "health-options");
  await accessible(page, "a health check that is changed");
  await dialog.getByLabel("It is well when").selectOption("agent");
  await dialog.getByLabel("Looked at every").fill("1");
  await dialog.getByRole("button", { name: "Change" }).click();
  await expect(dialog).toBeHidden();
  await expect(health).toContainText("agent");
  await expect(health.locator(".state")).toHaveText("healthy");
  kennel(["guest", "set", GUEST, "--health", "basic"]);

  await go(page, "settings");
  await page.getByRole("button", { name: "Add an alert" }).click();
  await dialog.getByLabel("URL").fill("https://ada:secret@alerts.example/");
  await dialog.getByRole("button", { name: "Add" }).click();
  await expect(dialog.locator("#alert-url-wrong")).toContainText("holds a name or a password");
  await accessible(page, "an alert that is added");
  await dialog.getByLabel("URL").fill("http://127.0.0.1:1/");
  await dialog.getByRole("button", { name: "Add" }).click();
  const alert = page.locator(".rule", { hasText: "webhook-1" });
  await alert.getByRole("button", { name: "Test webhook-1" }).click();
  // Where hosts reach the world through a proxy, it is that which answers.
  await expect(alert).toContainText(/nothing listens there|127\.0\.0\.1 answered [45]\d\d/);
  await shot(page, "alerts");
  await alert.getByRole("button", { name: "Remove webhook-1" }).click();
  await dialog.getByRole("button", { name: "Remove" }).click();
  await expect(alert).toBeHidden();

  await page.getByLabel("A storm is a loss of").fill("101");
  await page.getByRole("button", { name: "Save" }).click();
  await expect(page.locator("#set-share-wrong")).toContainText("a storm share");
  await page.getByLabel("A storm is a loss of").fill("40");
  await page.getByRole("button", { name: "Save" }).click();
  await expect(page.getByRole("button", { name: "Save" })).toBeDisabled();
  expect(json<{ settings: { storm_share_percent: number } }>("cluster", "status").settings.storm_share_percent).toBe(40);
});

test("a host, a pool and a disk are changed in their forms, and a guest is moved", async ({ page, expected }) => {
  expected.push("400", "409", "422");
  const { host, secondary } = await settled(GUEST);
  const idle = ["host1", "host2", "host3"].find((name) => name !== host && name !== secondary) ?? "host3";
  await signIn(page, idle);
  const dialog = page.getByRole("dialog");
  const about = page.locator(".card", { has: page.getByRole("heading", { name: "About" }) });
  await go(page, `hosts/${idle}`);
  await about.getByRole("button", { name: "Change" }).click();
  await dialog.getByLabel("Tags").fill("ssd no/tag");
  await dialog.getByRole("button", { name: "Change" }).click();
  await expect(dialog.locator("#host-tags-wrong")).toContainText("no/tag");
  await dialog.getByLabel("Tags").fill("ssd");
  await dialog.getByLabel("Memory", { exact: true }).fill("999G");
  await dialog.getByRole("button", { name: "Change" }).click();
  await expect(dialog.locator("#host-memory-wrong")).toContainText("of memory are all");
  await shot(page, "host-options");
  await accessible(page, "a host that is changed");
  await dialog.getByLabel("Memory", { exact: true }).fill("64M");
  await dialog.getByRole("button", { name: "Change" }).click();
  await expect(dialog).toBeHidden();
  await expect(about).toContainText("ssd");
  await expect(about).toContainText("64M of memory");

  await page.getByRole("button", { name: "Maintenance" }).click();
  await dialog.getByRole("button", { name: "Begin the maintenance" }).click();
  await expect(page.locator(".head .tag", { hasText: "maintenance" })).toBeVisible();
  await page.getByRole("button", { name: "Take back into service" }).click();
  await dialog.getByRole("button", { name: "Take back into service" }).click();
  await expect(page.getByRole("button", { name: "Maintenance" })).toBeVisible();

  await go(page, "volumes");
  await page.getByRole("button", { name: "Create a pool" }).click();
  await dialog.getByLabel("Name").fill("nfs1");
  await dialog.getByLabel("Folder").fill("/nowhere/at/all");
  await dialog.getByRole("button", { name: "Create" }).click();
  await expect(dialog.locator("#pool-path-wrong")).toContainText("/nowhere/at/all");
  await dialog.getByLabel("Folder").fill(sharedFolder());
  await dialog.getByRole("button", { name: "Create" }).click();
  const pool = page.locator(".rule", { hasText: "nfs1" });
  await expect(pool).toContainText("every host reaches it");
  await accessible(page, "pools");
  await pool.getByRole("button", { name: "Delete the pool nfs1" }).click();
  await dialog.getByRole("button", { name: "Delete" }).click();
  await expect(pool).toBeHidden();

  await go(page, `guests/${GUEST}`);
  await page.getByRole("button", { name: "Grow" }).click();
  await dialog.getByLabel("Size").fill("1M");
  await dialog.getByRole("button", { name: "Grow" }).click();
  await expect(dialog.locator("#grow-size-wrong")).toBeVisible();
  await dialog.getByLabel("Size").fill("96M");
  await dialog.getByRole("button", { name: "Grow" }).click();
  await expect(page.locator(".disk-head")).toContainText("96M");
  await settled(GUEST);

  await page.getByRole("button", { name: "Move", exact: true }).click();
  await dialog.getByLabel("To", { exact: true }).selectOption(secondary);
  await dialog.getByLabel("How").selectOption("slowed");
  await expect(dialog).toContainText("its processors may be slowed down");
  await shot(page, "move");
  await dialog.getByRole("button", { name: `Move to ${secondary}` }).click();
  await until("the guest to be there", () => json<Guest>("guest", "show", GUEST).host === secondary);
  await settled(GUEST);
});

test("a ticket opens one console, once", async ({ page, expected }) => {
  expected.push("WebSocket");
  await signIn(page, "host1");
  const outcome = await page.evaluate(async (guest) => {
    const answer = await fetch(`/v1/guests/${guest}/console-tickets`, { method: "POST" });
    const { ticket } = (await answer.json()) as { ticket: string };
    const open = () =>
      new Promise<string>((done) => {
        const socket = new WebSocket(`${location.origin.replace("http", "ws")}/v1/guests/${guest}/console?ticket=${ticket}`);
        socket.onopen = () => {
          socket.close();
          done("open");
        };
        socket.onerror = () => done("refused");
      });
    return [await open(), await open()];
  }, GUEST);
  expect(outcome).toEqual(["open", "refused"]);
});

test("every place is accessible, in light and in dark", async ({ page, expected }) => {
  expected.push("nothing is expected");
  await signIn(page, "host1");
  for (const colorScheme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    // Colours that are just changing are neither the ones nor the others.
    await page.reload();
    for (const place of PLACES) {
      await go(page, place);
      await expect(page.locator("main h1")).toBeVisible();
      await accessible(page, `#/${place} in ${colorScheme}`);
      await shot(page, `${place.replace(/[/:]/g, "-") || "overview"}-${colorScheme}`);
    }
  }
});

test("on a phone nothing runs out of the window", async ({ page, expected }) => {
  expected.push("nothing is expected");
  await page.setViewportSize({ width: 390, height: 844 });
  await signIn(page, "host1");
  for (const place of PLACES) {
    await go(page, place);
    await expect(page.locator("main h1")).toBeVisible();
    const over = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    expect(over, `#/${place} runs out of the window`).toBeLessThanOrEqual(0);
    await shot(page, `${place.replace(/[/:]/g, "-") || "overview"}-phone`);
  }
  await page.getByRole("button", { name: "Menu" }).click();
  await expect(page.getByRole("link", { name: "Topology" })).toBeVisible();
});

test("the keyboard alone is enough to stop and to start a guest", async ({ page, expected }) => {
  expected.push("nothing is expected");
  await signIn(page, "host1");
  await go(page, "guests");
  await expect(page.getByRole("link", { name: GUEST })).toBeVisible();
  await page.keyboard.press("/");
  await page.keyboard.type(GUEST);
  await page.getByRole("link", { name: GUEST }).focus();
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Stop", exact: true }).focus();
  await page.keyboard.press("Enter");
  const dialog = page.getByRole("dialog");
  await expect(dialog).toContainText("Everything that it serves is gone");
  await shot(page, "stop");
  await page.keyboard.press("Escape");
  await expect(dialog).toBeHidden();
  await page.getByRole("button", { name: "Stop", exact: true }).press("Enter");
  await dialog.getByRole("button", { name: "Stop" }).press("Enter");
  await expect(page.locator(".head .state")).toHaveText("stopped");
  await page.getByRole("button", { name: "Start", exact: true }).press("Enter");
  await page.getByRole("dialog").getByRole("button", { name: "Start" }).press("Enter");
  await expect(page.locator(".head .state")).toHaveText("running");
  await settled(GUEST);
});

test("what happens elsewhere is on the page within a second", async ({ page, expected }) => {
  expected.push("nothing is expected");
  await signIn(page, "host1");
  await go(page, "networks");
  await expect(page.getByRole("heading", { level: 1 })).toHaveText("Networks");
  kennel(["network", "create", "storage", "--subnet", "10.91.0.0/24"]);
  await expect(page.getByRole("heading", { name: "storage" })).toBeVisible({ timeout: 1_000 });
  kennel(["network", "delete", "storage", "--yes"]);
  await expect(page.getByRole("heading", { name: "storage" })).toBeHidden({ timeout: 1_000 });
});

test("a host that falls silent is said to be, and nothing pretends to be current", async ({ page, expected }) => {
  expected.push("Failed to load", "ERR_");
  await signIn(page, "host1");
  lab("freeze", "host1", "kenneld");
  await expect(page.getByRole("alert")).toContainText("Not current.", { timeout: 20_000 });
  await expect(page.getByRole("heading", { level: 1 })).toHaveText("How the cluster is, is not known.");
  await shot(page, "lost-connection");
  lab("thaw", "host1", "kenneld");
  await expect(page.getByRole("alert")).toBeHidden();
  await until("the hosts to be online", () => json<{ phase: string }[]>("host", "list").every(({ phase }) => phase === "online"));
  await settled(GUEST);
});

test("a host loses its power: the failover is watched, and why the guest is where it is can be read", async ({ page, context, expected }) => {
  expected.push("Failed to load", "ERR_");
  const { host, secondary } = await settled(GUEST);
  if (!host || !secondary) throw new Error("the guest has no host");
  const watching = ["host1", "host2", "host3"].find((name) => name !== host) ?? "host1";
  await signIn(page, watching);
  await go(page, "topology");
  const pet = page.locator(`[data-guest="${GUEST}"]`);
  await expect(pet).toHaveAttribute("data-host", host);
  const overview = await context.newPage();
  await overview.goto(`${address(watching)}/`);
  await expect(overview.locator(".health")).toBeVisible();

  lab("power-off", host);
  await expect(page.locator(`.host-box.lost`)).toContainText(host);
  // For a few seconds it is seen that it has moved.
  await expect(page.locator(`.moved[data-guest="${GUEST}"][data-host="${secondary}"]`)).toBeVisible();
  await shot(page, "failover-topology");
  await expect(overview.getByRole("heading", { level: 1 })).toContainText(`${host} is lost`);
  await expect(overview.locator(".problems")).toContainText(`Host ${host} is lost.`.replace("Host", "host"), { ignoreCase: true });
  await shot(overview, "failover-overview");
  await accessible(overview, "the overview of a cluster that lost a host");
  await until("the guest to run again", () => json<Guest>("guest", "show", GUEST).phase === "running");
  await expect(pet).toHaveClass(/good/);

  await go(page, `guests/${GUEST}`);
  const why = page.locator(".card", { has: page.getByRole("heading", { name: "Why it is where it is" }) });
  await expect(why).toContainText(host);
  await expect(why).toContainText(/lost|secondary|copy/);
  await shot(page, "failover-why");

  // Its BMC is asked, as it would be in a rack.
  nameBmc(host);
  const dialog = page.getByRole("dialog");
  const fencing = page.locator(".card", { has: page.getByRole("heading", { name: "Fence devices" }) });
  const givePower = async () => {
    await fencing.getByRole("button", { name: "Give it power" }).click();
    await dialog.getByRole("button", { name: "Give it power" }).click();
    await settled(GUEST);
    await expect(overview.getByRole("heading", { level: 1 })).toHaveText("All is well.");
  };
  await go(page, `hosts/${host}`);
  await givePower();

  await go(page, "incidents");
  await page.getByRole("link", { name: new RegExp(`${host} (is|was) lost`) }).first().click();
  await expect(page.locator(".meanings")).toContainText(`it ran on ${host}, and runs on ${secondary} now`);
  await expect(page.locator(".story")).toContainText("its session is over");
  await expect(page.locator(".head .state")).toHaveText("ended");
  await shot(page, "incident");
  await accessible(page, "an incident");

  await go(page, `hosts/${host}`);
  await fencing.getByRole("button", { name: "Test" }).click();
  await expect(fencing).toContainText("says: on");
  await fencing.getByRole("button", { name: "Take its power" }).click();
  await dialog.getByLabel("Why").fill("to see that it goes");
  await dialog.getByLabel(`Type ${host} to go on`).fill(host);
  await dialog.getByRole("button", { name: "Take its power" }).click();
  await expect(fencing).toContainText("Its power was seen to be off by bmc");
  await expect(fencing).toContainText("to see that it goes");
  await expect(page.locator(".head .state")).toHaveText("lost");
  await shot(page, "fenced");
  await givePower();
});

test("a guest is deleted when its name is typed, and after signing out nothing is shown", async ({ page, expected }) => {
  expected.push("nothing is expected");
  await signIn(page, "host1");
  await go(page, `guests/${GUEST}`);
  await page.getByRole("button", { name: "Delete", exact: true }).click();
  const dialog = page.getByRole("dialog");
  await expect(dialog).toContainText("Nothing brings them back.");
  await expect(dialog.getByRole("button", { name: "Delete for ever" })).toBeDisabled();
  await dialog.getByLabel(`Type ${GUEST} to go on`).fill(GUEST);
  await dialog.getByRole("button", { name: "Delete for ever" }).click();
  await expect(page.getByText("There is no guest yet.")).toBeVisible();
  await page.getByRole("button", { name: "Sign out" }).click();
  await expect(page.getByRole("button", { name: "Sign in", exact: true })).toBeVisible();
});
