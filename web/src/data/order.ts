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
    key = makeKey(text.toLowerCase());
    // Guests come and go: what is remembered is bounded.
    if (known.size >= KNOWN_MAX) known.clear();
    known.set(text, key);
  }
  return key;
}

/** Before each number stands how many digits it has. Without regular expressions: tables make 20,000 keys at once. */
function makeKey(text: string): string {
  let [key, told] = ["", 0];
  for (let at = 0; at < text.length; at += 1) {
    if (!isDigit(text, at)) continue;
    const begin = at;
    while (isDigit(text, at + 1)) at += 1;
    key += text.slice(told, begin) + String.fromCharCode(ZERO + at - begin);
    told = begin;
  }
  return key + text.slice(told);
}

const ZERO = 0x30;
const isDigit = (text: string, at: number): boolean => {
  const code = text.charCodeAt(at) - ZERO;
  return code >= 0 && code <= 9;
};

export function inOrder(a: string, b: string): number {
  const [left, right] = [orderKey(a), orderKey(b)];
  return left < right ? -1 : left > right ? 1 : 0;
}
