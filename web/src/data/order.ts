// The order that people expect of names with numbers: web-2 before web-10.
//
// Comparing so is slow, and tables of thousands of rows compare hundreds of thousands of times. So each text is turned
// once into one that plain comparison puts in the right place, and that is remembered.

const KNOWN_MAX = 100_000;
const known = new Map<string, string>();

/** For any two texts of our own (names, words, addresses): plain comparison of their keys is the order of the texts. */
export function orderKey(text: string): string {
  let key = known.get(text);
  if (key === undefined) {
    key = text.toLowerCase().replace(/\d+/g, (digits) => digits.padStart(16, "0"));
    // Guests come and go: what is remembered is bounded.
    if (known.size >= KNOWN_MAX) known.clear();
    known.set(text, key);
  }
  return key;
}

export function inOrder(a: string, b: string): number {
  const [left, right] = [orderKey(a), orderKey(b)];
  return left < right ? -1 : left > right ? 1 : 0;
}
