// What both kinds of console have in common.

export interface ConsoleHandle {
  close: () => void;
  /** Presses Ctrl-Alt-Delete, where there is a keyboard. */
  restart?: () => void;
}

export interface Callbacks {
  onOpen: () => void;
  onEnd: (why: string) => void;
}

export function socketUrl(path: string): string {
  const url = new URL(path, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  return url.href;
}

export const isWayOut = (event: KeyboardEvent): boolean => event.key === "Escape" && event.ctrlKey && event.shiftKey;

export const leave = (): void => document.getElementById("main")?.focus();
