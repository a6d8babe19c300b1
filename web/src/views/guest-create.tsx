// A guest in one short form. Everything but the name has a good default, and what is wrong stands beside its field.

import { useState } from "preact/hooks";
import { post, problemOf } from "../data/api";
import { hosts, isLive, store } from "../data/store";
import type { JobView, Problem } from "../data/types";
import { parseSize, size, wordsOf } from "../data/words";
import { Button, Head } from "../parts/basic";
import { Field, Refusal } from "../parts/dialog";
import { wrongTags } from "../parts/form";
import { go } from "../route";
import { poolsInOrder } from "./pools";

interface Form {
  name: string;
  image: string;
  memory: string;
  vcpus: string;
  disk: string;
  pool: string;
  network: string;
  address: string;
  host: string;
  tags: string;
  keys: string;
  userData: string;
}

type Wrong = Partial<Record<keyof Form, string>>;

const NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;

const lines = (text: string): string[] =>
  text
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean);

/** What can be seen without asking the cluster. */
function check(form: Form): Wrong {
  const wrong: Wrong = {};
  if (!form.name) wrong.name = "A guest needs a name.";
  else if (!NAME.test(form.name))
    wrong.name = "Use up to 63 lower-case letters, digits and hyphens, with a letter or a digit at both ends.";
  else if (store.guests.value.has(form.name)) wrong.name = `There is a guest ${form.name} already.`;
  if (form.memory && parseSize(form.memory) === null) wrong.memory = "Write a size, as in 512M or 2G.";
  if (form.disk && parseSize(form.disk) === null) wrong.disk = "Write a size, as in 10G.";
  if (!/^\d+$/.test(form.vcpus) || Number(form.vcpus) < 1 || Number(form.vcpus) > 255)
    wrong.vcpus = "Choose between 1 and 255.";
  if (form.address && !form.network) wrong.address = "An address needs a network.";
  const tags = wrongTags(wordsOf(form.tags));
  if (tags) wrong.tags = tags;
  return wrong;
}

/** Which field a refusal speaks of; undefined: of none, or of several. */
function fieldOf({ why }: Problem): keyof Form | undefined {
  const patterns: [RegExp, keyof Form][] = [
    [/of that name|a valid guest name/, "name"],
    [/\bimage\b/, "image"],
    [/address|subnet/, "address"],
    [/network/, "network"],
    [/memory/, "memory"],
    [/CPUs?\b/, "vcpus"],
    [/\bpool\b/, "pool"],
    [/\bdisk\b/, "disk"],
    [/\btags?\b/, "tags"],
    [/\bhost\b/, "host"],
  ];
  return patterns.find(([pattern]) => pattern.test(why))?.[1];
}

function request(form: Form): Record<string, unknown> {
  const disk = { ...(form.disk ? { size: parseSize(form.disk) } : {}), ...(form.pool ? { pool: form.pool } : {}) };
  const given: [string, unknown][] = [
    ["image", form.image || undefined],
    ["memory", form.memory ? parseSize(form.memory) : undefined],
    ["network", form.network || undefined],
    ["address", form.address || undefined],
    ["host", form.host || undefined],
    ["disks", Object.keys(disk).length > 0 ? [disk] : undefined],
    ["tags", wordsOf(form.tags).length > 0 ? wordsOf(form.tags) : undefined],
    ["ssh_keys", lines(form.keys).length > 0 ? lines(form.keys) : undefined],
    ["user_data", form.userData || undefined],
  ];
  return {
    name: form.name,
    vcpus: Number(form.vcpus),
    ...Object.fromEntries(given.filter(([, value]) => value !== undefined)),
  };
}

export function CreateGuestView() {
  const images = [...store.images.value.values()];
  const networks = [...store.networks.value.keys()];
  const [form, setForm] = useState<Form>(() => ({
    name: "",
    image: images[0]?.name ?? "",
    memory: "",
    vcpus: "1",
    disk: "",
    pool: "",
    network: networks.includes("default") ? "default" : (networks[0] ?? ""),
    address: "",
    host: "",
    tags: "",
    keys: "",
    userData: "",
  }));
  const [wrong, setWrong] = useState<Wrong>({});
  const [problem, setProblem] = useState<Problem | null>(null);
  const [busy, setBusy] = useState(false);
  const bind = (name: keyof Form) => ({
    id: name,
    value: form[name],
    "aria-invalid": wrong[name] !== undefined,
    ...(wrong[name] ? { "aria-describedby": `${name}-wrong` } : {}),
    onInput: (event: { currentTarget: HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement }) => {
      const { value } = event.currentTarget;
      setForm((old) => ({ ...old, [name]: value }));
      setWrong(({ [name]: _, ...rest }) => rest);
      setProblem(null);
    },
  });
  const submit = async (event: Event) => {
    event.preventDefault();
    const found = check(form);
    setWrong(found);
    setProblem(null);
    const first = Object.keys(found)[0];
    if (first) return document.getElementById(first)?.focus();
    setBusy(true);
    try {
      await post<JobView>("/v1/guests", request(form));
      go(`/guests/${form.name}`);
    } catch (error) {
      const refused = problemOf(error);
      const field = fieldOf(refused);
      if (field) {
        setWrong({ [field]: `${refused.why}; ${refused.instead}.` });
        document.getElementById(field)?.focus();
      } else {
        setProblem(refused);
      }
    } finally {
      setBusy(false);
    }
  };
  const image = store.images.value.get(form.image);
  const small = image?.image.kernel != null;
  return (
    <>
      <Head title="Create a guest" note="A name is enough; the rest has good defaults." />
      <form class="form card" noValidate onSubmit={(event) => void submit(event)}>
        <Field label="Name" name="name" wrong={wrong.name} hint="Also its host name inside.">
          <input {...bind("name")} autocomplete="off" spellcheck={false} autofocus />
        </Field>
        <Field
          label="Image"
          name="image"
          wrong={wrong.image}
          hint={image?.image.description || "What its first disk is filled from."}
        >
          <select {...bind("image")}>
            {images.map(({ name }) => (
              <option key={name} value={name}>
                {name}
              </option>
            ))}
            <option value="">none: an empty disk</option>
          </select>
        </Field>
        <div class="field-row">
          <Field label="Memory" name="memory" wrong={wrong.memory}>
            <input {...bind("memory")} placeholder={small ? "128M" : "512M"} />
          </Field>
          <Field label="CPUs" name="vcpus" wrong={wrong.vcpus}>
            <input {...bind("vcpus")} inputMode="numeric" />
          </Field>
          <Field label="Disk" name="disk" wrong={wrong.disk}>
            <input {...bind("disk")} placeholder={small ? "64M" : "10G"} />
          </Field>
        </div>
        <div class="field-row">
          <Field label="Network" name="network" wrong={wrong.network}>
            <select {...bind("network")}>
              {networks.map((name) => (
                <option key={name} value={name}>
                  {name}
                </option>
              ))}
              <option value="">as the cluster says</option>
            </select>
          </Field>
          <Field label="Address" name="address" wrong={wrong.address}>
            <input {...bind("address")} placeholder="the next free one" spellcheck={false} />
          </Field>
        </div>
        <details>
          <summary>More</summary>
          <Field
            label="Disk is kept"
            name="pool"
            wrong={wrong.pool}
            hint="Two copies survive the loss of a host. What hosts share is as safe as that storage is."
          >
            <select {...bind("pool")}>
              <option value="">{hosts.value.length > 1 ? "in two copies, on two hosts" : "in one copy"}</option>
              <option value="mirror">in two copies, on two hosts</option>
              <option value="local">in one copy, on its host alone</option>
              {poolsInOrder().map(
                ({ name, storage }) =>
                  storage && (
                    <option key={name} value={name}>
                      in the pool {name}, which hosts share ({storage.shared.path})
                    </option>
                  ),
              )}
            </select>
          </Field>
          <Field label="Host" name="host" wrong={wrong.host} hint="The planner chooses the best one, unless you do.">
            <select {...bind("host")}>
              <option value="">the best</option>
              {hosts.value.map(({ name, host, report }) => (
                <option key={name} value={name}>
                  {name} — {host.zone}, {size(report?.memory ?? 0)}
                </option>
              ))}
            </select>
          </Field>
          <Field
            label="Tags"
            name="tags"
            wrong={wrong.tags}
            hint="What rules may name it by; with blanks between them."
          >
            <input {...bind("tags")} spellcheck={false} />
          </Field>
          <Field label="SSH keys" name="keys" hint="One to a line.">
            <textarea {...bind("keys")} rows={2} spellcheck={false} />
          </Field>
          <Field label="User data" name="userData" hint="For cloud-init, or a script that begins with #!">
            <textarea {...bind("userData")} rows={4} spellcheck={false} />
          </Field>
        </details>
        <Refusal problem={problem} />
        <div class="form-end">
          <a class="button plain" href="#/guests">
            Leave it
          </a>
          <Button type="submit" kind="main" disabled={busy || !isLive.value}>
            {busy ? "Asking…" : "Create and start"}
          </Button>
        </div>
      </form>
    </>
  );
}
