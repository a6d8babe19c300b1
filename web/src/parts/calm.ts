// What is very much is shown anew twice a second only: sorting and drawing thousands of things takes some of each second.

import { useEffect, useRef, useState } from "preact/hooks";

/** Longer lists are calmed. */
const LONG = 400;
const EVERY_MS = 500;

/** The list as it is; if it is long, as it was half a second ago at most. */
export function useCalm<T>(items: readonly T[]): readonly T[] {
  const [newest, shown, timer] = [useRef(items), useRef(items), useRef<number>()];
  const [, wake] = useState(0);
  newest.current = items;
  if (items.length <= LONG || shown.current.length <= LONG) shown.current = items;
  useEffect(() => {
    if (shown.current === items || timer.current !== undefined) return;
    timer.current = window.setTimeout(() => {
      timer.current = undefined;
      shown.current = newest.current;
      wake((count) => count + 1);
    }, EVERY_MS);
  }, [items]);
  useEffect(() => () => clearTimeout(timer.current), []);
  return shown.current;
}
