// Where in the page we are: what stands behind the # of the address, so that the host serves one file for all of it.

import { computed, signal } from "@preact/signals";

const path = signal(read());

function read(): string {
  return location.hash.replace(/^#\/?/, "");
}

window.addEventListener("hashchange", () => {
  path.value = read();
  window.scrollTo(0, 0);
});

/** As in ["guests", "web1"]. */
export const route = computed(
  () =>
    path.value
      .split("?")[0]
      ?.split("/")
      .filter((part) => part !== "")
      .map(decodeURIComponent) ?? [],
);

export const go = (to: string): void => {
  location.hash = to;
};
