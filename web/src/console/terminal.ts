// A terminal over a WebSocket: what the guest's serial port says, and what is typed.

import { FitAddon } from "@xterm/addon-fit";
import { Terminal } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";
import { type Callbacks, type ConsoleHandle, isWayOut, leave, socketUrl } from "./handle";
import { withoutInlineStyles } from "./styles";

const SCROLLBACK_LINES = 5_000;

/** `before`: what is shown first. Without a path that is all, and nothing can be typed. */
export function openTerminal(
  box: HTMLElement,
  path: string | null,
  { onOpen, onEnd }: Callbacks,
  before: (string | Uint8Array)[] = [],
): ConsoleHandle {
  const terminal = new Terminal({
    allowProposedApi: false,
    convertEol: false,
    cursorBlink: path !== null,
    disableStdin: path === null,
    documentOverride: withoutInlineStyles(document),
    fontFamily: 'ui-monospace, "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace',
    fontSize: 13,
    lineHeight: 1.25,
    screenReaderMode: true,
    scrollback: SCROLLBACK_LINES,
    theme: { background: "#10151300", foreground: "#dce5e0", cursor: "#8fd3b6", selectionBackground: "#2f6f58" },
    allowTransparency: true,
  });
  const fit = new FitAddon();
  terminal.loadAddon(fit);
  terminal.open(box);
  fit.fit();
  const observer = new ResizeObserver(() => fit.fit());
  observer.observe(box);
  // Tab belongs to the guest, so there is another way out for who has no mouse.
  terminal.attachCustomKeyEventHandler((event) => {
    if (isWayOut(event)) leave();
    return !isWayOut(event);
  });

  for (const part of before) terminal.write(part);
  if (path === null) {
    return {
      close: () => {
        observer.disconnect();
        terminal.dispose();
      },
    };
  }

  const socket = new WebSocket(socketUrl(path));
  socket.binaryType = "arraybuffer";
  const encoder = new TextEncoder();
  const send = (bytes: Uint8Array<ArrayBuffer>) => {
    if (socket.readyState === WebSocket.OPEN) socket.send(bytes);
  };
  terminal.onData((text) => send(encoder.encode(text)));
  terminal.onBinary((text) => send(Uint8Array.from(text, (char) => char.charCodeAt(0))));
  let closed = false;
  socket.addEventListener("open", () => {
    if (closed) return socket.close();
    onOpen();
    terminal.focus();
  });
  socket.addEventListener("message", (event: MessageEvent<ArrayBuffer | string>) => {
    if (closed) return;
    terminal.write(typeof event.data === "string" ? event.data : new Uint8Array(event.data));
  });
  socket.addEventListener("close", (event) => {
    if (!closed) onEnd(event.reason || (event.wasClean ? "" : "the connection broke, or the ticket was refused"));
  });
  return {
    close: () => {
      closed = true;
      observer.disconnect();
      // The browser complains of a socket that is closed before it has opened.
      if (socket.readyState !== WebSocket.CONNECTING) socket.close();
      terminal.dispose();
    },
  };
}
