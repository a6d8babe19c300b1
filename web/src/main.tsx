// The page begins: who is signed in? Then the stream, and the view that the address names.

import { render } from "preact";
import { App } from "./app";
import { get } from "./data/api";
import { session } from "./data/store";
import { connect, watchTheNetwork } from "./data/stream";
import type { SessionView } from "./data/types";
import "./style/base.css";
import "./style/parts.css";
import "./style/views.css";

async function begin(): Promise<void> {
  const root = document.getElementById("app");
  if (root) render(<App />, root);
  watchTheNetwork();
  try {
    const answer = await get<SessionView>("/v1/session");
    session.value = answer.name === null ? null : answer;
    if (session.value) connect();
  } catch {
    session.value = null;
  }
}

void begin();
