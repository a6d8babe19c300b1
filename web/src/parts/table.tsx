// A table of thousands of rows: only those in sight are in the document. Filter and sort work over all of them.

import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { orderKey } from "../data/order";
import { Empty } from "./basic";
import { useCalm } from "./calm";

export interface Column<T> {
  head: string;
  cell: (item: T) => ComponentChildren;
  /** What it is sorted by; without, it is not. */
  by?: (item: T) => string | number;
  /** Left out where the window is narrow. */
  wide?: boolean;
  right?: boolean;
}

interface Props<T> {
  label: string;
  items: readonly T[];
  columns: Column<T>[];
  id: (item: T) => string;
  /** All that the filter looks through, in lower case. */
  text: (item: T) => string;
  nothing: ComponentChildren;
  sortedBy?: string;
}

const ROW_HEIGHT = 44;
/** Rows above and below what is seen, so that scrolling shows no gap. */
const MARGIN = 8;
/** Shorter tables are shown whole, and as high as they are. */
const WHOLE_MAX = 40;

type Key = string | number;
const compare = (a: Key, b: Key): number => (a < b ? -1 : a > b ? 1 : 0);
const keyOf = (key: Key): Key => (typeof key === "number" ? key : orderKey(key));

export function Table<T>({ label, items: all, columns, id, text, nothing, sortedBy }: Props<T>) {
  const items = useCalm(all);
  const [filter, setFilter] = useState("");
  const [sort, setSort] = useState({ head: sortedBy ?? columns[0]?.head, down: false });
  const shown = useMemo(() => {
    const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
    const found = words.length === 0 ? [...items] : items.filter((item) => matches(text(item), words));
    const by = columns.find((column) => column.head === sort.head)?.by;
    if (!by) return found;
    const keyed = found.map((item) => ({ item, key: keyOf(by(item)), id: orderKey(id(item)) }));
    keyed.sort((a, b) => compare(a.key, b.key) || compare(a.id, b.id));
    if (sort.down) keyed.reverse();
    return keyed.map(({ item }) => item);
  }, [items, filter, sort]);
  const field = useFilterKey();
  return (
    <div class="table">
      <div class="filter">
        <input
          ref={field}
          type="search"
          value={filter}
          placeholder="Filter"
          aria-label={`Filter ${label}`}
          aria-keyshortcuts="/"
          onInput={(event) => setFilter(event.currentTarget.value)}
        />
        <kbd aria-hidden="true">/</kbd>
        <span class="faint" role="status">
          {shown.length === items.length ? `${items.length}` : `${shown.length} of ${items.length}`}
        </span>
      </div>
      {items.length === 0 ? (
        <Empty>{nothing}</Empty>
      ) : shown.length === 0 ? (
        <Empty>Nothing matches “{filter}”.</Empty>
      ) : (
        <Rows label={label} items={shown} columns={columns} id={id} sort={sort} setSort={setSort} />
      )}
    </div>
  );
}

/** Each word somewhere in it. */
const matches = (text: string, words: string[]): boolean => words.every((word) => text.includes(word));

/** `/` goes to the filter, wherever one is not writing. */
function useFilterKey() {
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      const writing = event.target instanceof HTMLElement && event.target.matches("input, textarea, select, dialog *");
      if (event.key !== "/" || writing || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      field.current?.focus();
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
  return field;
}

interface RowsProps<T> {
  label: string;
  items: T[];
  columns: Column<T>[];
  id: (item: T) => string;
  sort: { head: string | undefined; down: boolean };
  setSort: (sort: { head: string | undefined; down: boolean }) => void;
}

function Rows<T>({ label, items, columns, id, sort, setSort }: RowsProps<T>) {
  const box = useRef<HTMLDivElement>(null);
  const [range, setRange] = useState<[number, number]>([0, WHOLE_MAX]);
  const whole = items.length <= WHOLE_MAX;
  const measure = () => {
    const view = box.current;
    if (!view) return;
    const first = Math.floor(view.scrollTop / ROW_HEIGHT) - MARGIN;
    const count = Math.ceil(view.clientHeight / ROW_HEIGHT) + 2 * MARGIN;
    const next: [number, number] = [Math.max(0, first), Math.max(0, first) + count];
    setRange((old) => (old[0] === next[0] && old[1] === next[1] ? old : next));
  };
  useLayoutEffect(measure, [items.length, whole]);
  useEffect(() => {
    window.addEventListener("resize", measure);
    return () => window.removeEventListener("resize", measure);
  }, []);
  const [first, last] = whole
    ? [0, items.length]
    : [Math.min(range[0], items.length), Math.min(range[1], items.length)];
  return (
    <div
      ref={box}
      class={whole ? "rows whole" : "rows"}
      onScroll={measure}
      {...(whole ? {} : { tabIndex: 0, role: "region", "aria-label": label })}
    >
      <table aria-label={label} aria-rowcount={items.length + 1} onKeyDown={moveBetweenRows}>
        <thead>
          <tr>
            {columns.map((column) => (
              <Header key={column.head} column={column} sort={sort} setSort={setSort} />
            ))}
          </tr>
        </thead>
        <tbody>
          <Gap rows={first} columns={columns.length} />
          {items.slice(first, last).map((item, index) => (
            <tr key={id(item)} aria-rowindex={first + index + 2}>
              {columns.map((column) => (
                <td key={column.head} class={cellClass(column)}>
                  {column.cell(item)}
                </td>
              ))}
            </tr>
          ))}
          <Gap rows={items.length - last} columns={columns.length} />
        </tbody>
      </table>
    </div>
  );
}

const cellClass = <T,>(column: Column<T>): string =>
  `${column.wide ? "wide" : ""} ${column.right ? "right" : ""}`.trim();

function Header<T>({
  column,
  sort,
  setSort,
}: {
  column: Column<T>;
  sort: RowsProps<T>["sort"];
  setSort: RowsProps<T>["setSort"];
}) {
  const mine = sort.head === column.head;
  const order = mine && column.by ? (sort.down ? "descending" : "ascending") : undefined;
  return (
    <th scope="col" class={cellClass(column)} {...(order ? { "aria-sort": order } : {})}>
      {column.by ? (
        <button type="button" onClick={() => setSort({ head: column.head, down: mine && !sort.down })}>
          {column.head}
          <span class="arrow" aria-hidden="true">
            {mine ? (sort.down ? "↓" : "↑") : ""}
          </span>
        </button>
      ) : (
        column.head
      )}
    </th>
  );
}

/** Stands for the rows that are not in the document. */
function Gap({ rows, columns }: { rows: number; columns: number }) {
  if (rows <= 0) return null;
  return (
    <tr class="gap" aria-hidden="true">
      <td colSpan={columns} height={rows * ROW_HEIGHT} />
    </tr>
  );
}

/** Arrow keys go from a row's link to the next one's. */
function moveBetweenRows(event: KeyboardEvent): void {
  if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
  const row = (event.target as HTMLElement).closest("tbody tr");
  if (!row) return;
  const next = event.key === "ArrowDown" ? row.nextElementSibling : row.previousElementSibling;
  const link = next?.querySelector<HTMLElement>("a, button");
  if (!link) return;
  event.preventDefault();
  link.focus();
}
