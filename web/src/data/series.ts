// What was measured over time, as the hosts keep it: asked for when a chart is looked at, and again as time passes.

import { useEffect, useState } from "preact/hooks";
import { get, problemOf } from "./api";
import type { Problem, SeriesView } from "./types";

/** How much of the past is looked at. Each in about as many steps as a chart is wide. */
export const SPANS = {
  hour: { title: "hour", seconds: 3_600, step: 10, again: 10_000 },
  day: { title: "day", seconds: 86_400, step: 300, again: 60_000 },
  month: { title: "month", seconds: 30 * 86_400, step: 7_200, again: 600_000 },
} as const;

export type Span = keyof typeof SPANS;
export const spans = Object.keys(SPANS) as Span[];

export interface Known {
  series: SeriesView | null;
  problem: Problem | null;
}

/** Of a guest or a host, as in `guests/web1`. What was known stays while it is asked for anew. */
export function useSeries(of: string, span: Span): Known {
  const [known, setKnown] = useState<Known>({ series: null, problem: null });
  useEffect(() => {
    let current = true;
    const { seconds, step, again } = SPANS[span];
    const ask = () => {
      if (document.visibilityState === "hidden") return;
      const from = new Date(Date.now() - seconds * 1000).toISOString();
      get<SeriesView>(`/v1/${of}/series?from=${encodeURIComponent(from)}&step=${step}`).then(
        (series) => current && setKnown({ series, problem: null }),
        (error: unknown) => current && setKnown((before) => ({ ...before, problem: problemOf(error) })),
      );
    };
    setKnown({ series: null, problem: null });
    ask();
    const timer = window.setInterval(ask, again);
    document.addEventListener("visibilitychange", ask);
    return () => {
      current = false;
      clearInterval(timer);
      document.removeEventListener("visibilitychange", ask);
    };
  }, [of, span]);
  return known;
}
