// Line icons, drawn for this page: 20 by 20, one stroke.

const PATHS = {
  overview: "M3 10.500a7 7 0 0 1 14 0M10 10.500l3.200-3.200M5.500 15.500h9",
  guests: "M3.500 4.500h13v8.500h-13zM7 16.500h6M10 13v3.500",
  hosts: "M3.500 4h13v5h-13zM3.500 11h13v5h-13zM6.500 6.500h.01M6.500 13.500h.01",
  topology: "M10 3.500v4M10 7.500 5 12.500M10 7.500l5 5M3 12.500h4v4H3zM13 12.500h4v4h-4zM8 2.500h4v3H8z",
  jobs: "M10 3.500a6.500 6.500 0 1 1-6.200 4.500M3.500 4v4h4M10 6.500V10l2.500 2",
  incidents: "M10 3.500 17.500 16.500h-15zM10 8.500v3.500M10 14.300h.01",
  events: "M4 5h12M4 10h12M4 15h8",
  images: "M10 3a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM10 8.500a1.500 1.500 0 1 0 0 3 1.500 1.500 0 0 0 0-3z",
  networks: "M10 3a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM3 10h14M10 3c2.500 2 2.500 12 0 14M10 3c-2.500 2-2.500 12 0 14",
  volumes: "M4 5.500C4 4 16 4 16 5.500v9c0 1.500-12 1.500-12 0zM4 5.500C4 7 16 7 16 5.500M4 10c0 1.500 12 1.500 12 0",
  settings:
    "M3.500 6h7M14.500 6h2M3.500 14h2M9.500 14h7M12.500 4.200a1.800 1.800 0 1 0 0 3.600 1.800 1.800 0 0 0 0-3.600zM7.500 12.200a1.800 1.800 0 1 0 0 3.600 1.800 1.800 0 0 0 0-3.600z",
  console: "M3 4.500h14v11H3zM6 8l2.500 2L6 12M10.500 12.500H14",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 20 20" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}
