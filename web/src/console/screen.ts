// A guest's screen over a WebSocket, with its keyboard and its mouse.

import RFB from "@novnc/novnc";
import { type Callbacks, type ConsoleHandle, isWayOut, leave, socketUrl } from "./handle";

export function openScreen(box: HTMLElement, path: string, { onOpen, onEnd }: Callbacks): ConsoleHandle {
  const rfb = new RFB(box, socketUrl(path), { shared: true });
  rfb.scaleViewport = true;
  rfb.background = "#101513";
  // Every key belongs to the guest, so there is a way out for who has no mouse; before noVNC sees it.
  const watch = (event: KeyboardEvent) => {
    if (!isWayOut(event)) return;
    event.stopPropagation();
    rfb.blur();
    leave();
  };
  box.addEventListener("keydown", watch, true);
  let connected = false;
  let closed = false;
  rfb.addEventListener("connect", () => {
    connected = true;
    // The browser complains of a socket that is closed before it has opened.
    if (closed) return rfb.disconnect();
    onOpen();
    rfb.focus();
  });
  rfb.addEventListener("disconnect", (event) => {
    const clean = event instanceof CustomEvent && (event.detail as { clean: boolean }).clean;
    if (!closed) onEnd(clean ? "" : "the connection broke, or the ticket was refused");
  });
  return {
    restart: () => rfb.sendCtrlAltDel(),
    close: () => {
      closed = true;
      box.removeEventListener("keydown", watch, true);
      if (connected) rfb.disconnect();
      box.replaceChildren();
    },
  };
}
