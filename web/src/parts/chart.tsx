// A line of what was measured since the page was opened; no more than that is known here.

import { rounds, type Sample, samplesOf } from "../data/history";
import type { Usage } from "../data/types";

const WIDTH = 240;
const HEIGHT = 48;

interface Props {
  of: string;
  what: keyof Usage;
  title: string;
  /** Of the newest sample. */
  say: (value: number) => string;
  /** Where the scale ends, if not at the largest sample. */
  top?: number | undefined;
}

function points(samples: readonly Sample[], what: keyof Usage, top: number): string {
  const first = samples[0]?.at ?? 0;
  const span = Math.max(1, (samples.at(-1)?.at ?? 0) - first);
  return samples
    .map(({ at, usage }) => {
      const x = ((at - first) / span) * WIDTH;
      const y = HEIGHT - 2 - (usage[what] / top) * (HEIGHT - 4);
      return `${x.toFixed(1)},${Math.max(1, y).toFixed(1)}`;
    })
    .join(" ");
}

export function Chart({ of, what, title, say, top }: Props) {
  // Drawn anew with each round of samples.
  void rounds.value;
  const samples = samplesOf(of);
  const newest = samples.at(-1)?.usage[what];
  const largest = Math.max(top ?? 0, ...samples.map((sample) => sample.usage[what]), Number.MIN_VALUE);
  const line = samples.length > 1 ? points(samples, what, largest * (top ? 1 : 1.15)) : "";
  return (
    <figure class="chart">
      <figcaption>
        <span>{title}</span>
        <strong>{newest === undefined ? "not yet" : say(newest)}</strong>
      </figcaption>
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={`${title}, since this page was opened`}
      >
        {line && <polygon class="area" points={`0,${HEIGHT} ${line} ${WIDTH},${HEIGHT}`} />}
        {line && <polyline class="line" points={line} />}
      </svg>
    </figure>
  );
}
