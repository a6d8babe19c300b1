// Builds the lab before the stories, and takes it down after them. With KENNEL_KEEP_LAB it stays, and is used again.

import { mkdirSync } from "node:fs";
import { down, isUp, SHOTS, up } from "./lab";

export default async function setup(): Promise<() => void> {
  mkdirSync(SHOTS, { recursive: true });
  if (!process.env.KENNEL_KEEP_LAB || !isUp()) await up();
  return () => {
    if (!process.env.KENNEL_KEEP_LAB) down();
  };
}
