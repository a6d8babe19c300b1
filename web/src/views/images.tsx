// What guests are made from, and where it is.

import { useState } from "preact/hooks";
import { post, remove } from "../data/api";
import { byName, hosts, isLive, store } from "../data/store";
import type { ImageView } from "../data/types";
import { size } from "../data/words";
import { Ago, Button, Head } from "../parts/basic";
import { Confirm, Field } from "../parts/dialog";
import { type Column, Table } from "../parts/table";

const RECIPES = [
  ["tiny", "a few megabytes: busybox, a cloud kernel, the guest agent"],
  ["debian", "Debian 13 with systemd, cloud-init and sshd"],
] as const;

export function ImagesView() {
  const [gone, setGone] = useState<ImageView | null>(null);
  const [building, setBuilding] = useState(false);
  const images = [...store.images.value.values()].sort(byName);
  const columns: Column<ImageView>[] = [
    { head: "Name", cell: ({ name }) => <strong>{name}</strong>, by: ({ name }) => name },
    { head: "What it is", cell: ({ image }) => <span class="text-cell">{image.description || "—"}</span>, wide: true },
    {
      head: "Disk",
      cell: ({ image }) => `${size(image.virtual_size)}, ${image.format}`,
      by: ({ image }) => image.virtual_size,
    },
    {
      head: "On",
      cell: ({ present_on }) => `${present_on.length} of ${hosts.value.length} hosts`,
      by: ({ present_on }) => present_on.length,
    },
    {
      head: "Since",
      cell: ({ image }) => <Ago at={image.imported_at} />,
      by: ({ image }) => image.imported_at,
      wide: true,
    },
    {
      head: "",
      right: true,
      cell: (image) => (
        <button
          type="button"
          class="quiet"
          disabled={!isLive.value}
          onClick={() => setGone(image)}
          aria-label={`Delete the image ${image.name}`}
        >
          Delete
        </button>
      ),
    },
  ];
  return (
    <>
      <Head title="Images" note="“kennel image import” brings any qcow2 or raw disk in.">
        <Button kind="main" disabled={!isLive.value} onClick={() => setBuilding(true)}>
          Build an image
        </Button>
      </Head>
      <Table
        label="images"
        items={images}
        columns={columns}
        id={({ name }) => name}
        text={({ name, image }) => `${name} ${image.description}`.toLowerCase()}
        nothing="There is no image yet: build one, or import one."
      />
      {building && <Build onClose={() => setBuilding(false)} />}
      {gone && (
        <Confirm
          title={`Delete the image ${gone.name}?`}
          verb="Delete"
          danger
          consequences={[
            "No guest can be made from it any more.",
            "Guests that were made from it keep their disks.",
            `Its files go from ${gone.present_on.length} hosts.`,
          ]}
          onClose={() => setGone(null)}
          onYes={() => remove(`/v1/images/${gone.name}`)}
        />
      )}
    </>
  );
}

function Build({ onClose }: { onClose: () => void }) {
  const [recipe, setRecipe] = useState<string>("tiny");
  const [name, setName] = useState("");
  const called = name || recipe;
  return (
    <Confirm
      title="Build an image"
      verb={`Build ${called}`}
      consequences={[
        "The host that this page comes from makes it of Debian's packages; that takes a minute or some.",
        "The others fetch it from there.",
      ]}
      onClose={onClose}
      onYes={() => post(`/v1/images/${called}/build`, { recipe })}
    >
      <Field label="Recipe" name="recipe" hint={RECIPES.find(([key]) => key === recipe)?.[1]}>
        <select id="recipe" value={recipe} onChange={(event) => setRecipe(event.currentTarget.value)}>
          {RECIPES.map(([key]) => (
            <option key={key} value={key}>
              {key}
            </option>
          ))}
        </select>
      </Field>
      <Field label="Name" name="image-name">
        <input
          id="image-name"
          value={name}
          placeholder={recipe}
          onInput={(event) => setName(event.currentTarget.value)}
        />
      </Field>
    </Confirm>
  );
}
