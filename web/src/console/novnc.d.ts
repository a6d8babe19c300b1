// What is used of noVNC, which has no types of its own; see its docs/API.md.

declare module "@novnc/novnc" {
  export default class RFB extends EventTarget {
    constructor(target: HTMLElement, url: string, options?: { shared?: boolean });
    scaleViewport: boolean;
    background: string;
    focus(): void;
    blur(): void;
    sendCtrlAltDel(): void;
    disconnect(): void;
  }
}
