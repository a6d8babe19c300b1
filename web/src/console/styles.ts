// The page's policy allows no inline styles, and xterm.js writes <style> elements. It asks a document for them that
// it can be given: this one hands out elements whose text goes into a constructed style sheet, which is allowed.

class SheetElement extends HTMLElement {
  private sheet: CSSStyleSheet | undefined;

  override set textContent(text: string | null) {
    this.sheet ??= new CSSStyleSheet();
    this.sheet.replaceSync(text ?? "");
    this.adopt();
  }

  override get textContent(): string {
    return "";
  }

  connectedCallback(): void {
    this.adopt();
  }

  disconnectedCallback(): void {
    const mine = this.sheet;
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((sheet) => sheet !== mine);
  }

  private adopt(): void {
    if (!this.sheet || !this.isConnected || document.adoptedStyleSheets.includes(this.sheet)) return;
    document.adoptedStyleSheets = [...document.adoptedStyleSheets, this.sheet];
  }
}

const TAG = "kennel-sheet";

export function withoutInlineStyles(real: Document): Document {
  if (!customElements.get(TAG)) customElements.define(TAG, SheetElement);
  return new Proxy(real, {
    get(target, name) {
      if (name === "createElement") {
        return (tag: string) => target.createElement(tag === "style" ? TAG : tag);
      }
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}
