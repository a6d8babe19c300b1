// What was measured over time, as four small charts that are read together: one stretch of time, one moment looked
// at. Where nothing was measured there is no line. The moment is chosen with the pointer or the arrow keys.

import { useMemo, useState } from "preact/hooks";
import { SPANS, type Span, spans, useSeries } from "../data/series";
import type { SeriesView, Usage } from "../data/types";
import { moment } from "../data/words";
import { Card } from "./basic";
import { Refusal } from "./dialog";

const WIDTH = 240;
const HEIGHT = 48;

interface Line {
  what: keyof Usage;
  title: string;
  say: (value: number) => string;
  /** Where the scale ends, if not at the largest value. */
  top?: number | undefined;
}

/** `of`: as in `guests/web1`. */
export function Load({ of, lines }: { of: string; lines: Line[] }) {
  const [span, setSpan] = useState<Span>("hour");
  const [at, setAt] = useState<number | null>(null);
  const { series, problem } = useSeries(of, span);
  const steps = series?.cpu.length ?? 0;
  const chosen = at === null || at >= steps ? null : at;
  const move = (event: KeyboardEvent) => {
    const to = { ArrowLeft: (chosen ?? steps) - 1, ArrowRight: (chosen ?? -1) + 1, Home: 0, End: steps - 1 }[event.key];
    if (event.key === "Escape") setAt(null);
    if (to === undefined || steps === 0) return;
    event.preventDefault();
    setAt(Math.max(0, Math.min(steps - 1, to)));
  };
  return (
    <Card title="Load" more={<Spans span={span} onSpan={setSpan} />}>
      {!series && <Refusal problem={problem} />}
      <div
        class="charts"
        role="group"
        // biome-ignore lint/a11y/noNoninteractiveTabindex: the arrow keys choose the moment that is read
        tabIndex={0}
        aria-label={`Load, last ${SPANS[span].title}; the arrow keys choose a moment`}
        onKeyDown={move}
        onMouseLeave={() => setAt(null)}
        onBlur={() => setAt(null)}
      >
        {lines.map((line) => (
          <Chart key={line.what} line={line} series={series} at={chosen} span={span} onAt={setAt} />
        ))}
      </div>
      <p class="faint chart-foot" aria-live="polite">
        {foot(series, span, chosen)}
      </p>
    </Card>
  );
}

function Spans({ span, onSpan }: { span: Span; onSpan: (span: Span) => void }) {
  return (
    <span class="spans">
      {spans.map((one) => (
        <button key={one} type="button" aria-pressed={one === span} onClick={() => onSpan(one)}>
          {SPANS[one].title}
        </button>
      ))}
    </span>
  );
}

function foot(series: SeriesView | null, span: Span, at: number | null): string {
  if (!series) return "";
  if (at !== null) return moment(new Date(Date.parse(series.from) + at * series.step_s * 1000).toISOString());
  const silent = series.silent.length > 0 ? `; what ${series.silent.join(", ")} measured is missing` : "";
  return `the last ${SPANS[span].title}${silent}`;
}

/** Stretches without a gap, each as points of x and y. */
function stretches(values: readonly (number | null)[], top: number): [number, number][][] {
  const all: [number, number][][] = [];
  const width = WIDTH / Math.max(1, values.length);
  let open = false;
  values.forEach((value, index) => {
    if (value === null) {
      open = false;
      return;
    }
    if (!open) all.push([]);
    open = true;
    const y = Math.max(1, HEIGHT - 2 - (value / top) * (HEIGHT - 4));
    all.at(-1)?.push([(index + 0.5) * width, y]);
  });
  // A step that stands alone is a short line, not nothing.
  return all.map((points) => {
    const [x, y] = points[0] ?? [0, 0];
    return points.length > 1
      ? points
      : [
          [x - width / 2, y],
          [x + width / 2, y],
        ];
  });
}

const path = (points: [number, number][]): string =>
  points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");

interface ChartProps {
  line: Line;
  series: SeriesView | null;
  at: number | null;
  span: Span;
  onAt: (at: number | null) => void;
}

function Chart({ line, series, at, span, onAt }: ChartProps) {
  const { title, say, top } = line;
  const values = series?.[line.what] ?? [];
  const drawn = useMemo(() => {
    const largest = Math.max(top ?? 0, ...values.map((value) => value ?? 0), Number.MIN_VALUE);
    return stretches(values, largest * (top ? 1 : 1.15));
  }, [values, top]);
  const newest = values.findLast((value) => value !== null);
  const shown = at === null ? newest : values[at];
  const choose = (event: MouseEvent & { currentTarget: SVGSVGElement }) => {
    const { left, width } = event.currentTarget.getBoundingClientRect();
    const index = Math.floor(((event.clientX - left) / width) * values.length);
    onAt(values.length > 0 ? Math.max(0, Math.min(values.length - 1, index)) : null);
  };
  const x = at === null ? 0 : ((at + 0.5) / values.length) * WIDTH;
  return (
    <figure class="chart">
      <figcaption>
        <span>{title}</span>
        <strong>{shown === undefined || shown === null ? "not measured" : say(shown)}</strong>
      </figcaption>
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={`${title}, last ${SPANS[span].title}`}
        onMouseMove={choose}
      >
        {drawn.map((points) => {
          const [first, last] = [points[0]?.[0] ?? 0, points.at(-1)?.[0] ?? 0];
          return (
            <g key={first}>
              <polygon class="area" points={`${first},${HEIGHT} ${path(points)} ${last},${HEIGHT}`} />
              <polyline class="line" points={path(points)} />
            </g>
          );
        })}
        {at !== null && <line class="moment" x1={x} x2={x} y1="0" y2={HEIGHT} />}
      </svg>
    </figure>
  );
}
