// Emphasis from its marks: CommonMark's "process emphasis", each opener and closer looked at once.

// Deeper nesting is shown without its marks.
const DEEPEST = 24;

/**
 * Pairs the marks among a text's items: nodes, and {mark, count, length, opens, closes, alone} for a run of
 * "*", "_" or "~". `open`: more text will follow; a mark without an end yet is taken to end here.
 */
export function emphasize(items, open) {
  const out = [];
  const openers = []; // indices into out
  const bottoms = new Map(); // below which height of `openers` a kind of closer has no match

  const pair = (closer) => {
    const key = `${closer.mark}${closer.opens}${closer.length % 3}`;
    const bottom = bottoms.get(key) ?? 0;
    for (let i = openers.length - 1; i >= bottom; i -= 1) {
      if (matches(out[openers[i]], closer)) return i;
    }
    bottoms.set(key, openers.length);
    return null;
  };

  const wrap = (height, used) => {
    const index = openers[height];
    const children = textOfMarks(out.splice(index + 1));
    const opener = out[index];
    openers.length = height + 1;
    opener.count -= used;
    const kind = opener.mark === "~" ? "strike" : used === 2 ? "strong" : "emphasis";
    const depth = depthOf(children) + 1;
    if (opener.count === 0) {
      out.pop();
      openers.pop();
    }
    for (const [key, bottom] of bottoms) bottoms.set(key, Math.min(bottom, openers.length));
    if (depth <= DEEPEST) out.push({ kind, children, depth });
    else out.push(...children);
  };

  for (const entry of items) {
    if (!entry.mark) {
      out.push(entry);
      continue;
    }
    let height = null;
    while (entry.closes && entry.count > 0 && (height = pair(entry)) !== null) {
      const used = entry.count >= 2 && out[openers[height]].count >= 2 ? 2 : 1;
      wrap(height, used);
      entry.count -= used;
    }
    if (entry.count === 0) continue;
    if (entry.opens) openers.push(out.length);
    out.push(entry);
  }
  while (open && openers.length > 0) {
    const opener = out[openers.at(-1)];
    if (opener.alone && openers.at(-1) < out.length - 1 && (opener.mark !== "~" || opener.count === 2)) {
      wrap(openers.length - 1, Math.min(opener.count, 2));
    } else {
      openers.pop();
    }
  }
  return textOfMarks(out);
}

function matches(opener, closer) {
  if (opener.mark !== closer.mark) return false;
  if (opener.mark === "~") return opener.count === 2 && closer.count === 2;
  const both = opener.closes || closer.opens;
  const sum = opener.length + closer.length;
  return !both || sum % 3 !== 0 || (opener.length % 3 === 0 && closer.length % 3 === 0);
}

/** The nodes, with marks that paired with nothing as text and neighbouring texts joined. */
function textOfMarks(items) {
  const nodes = [];
  for (const entry of items) {
    const node = entry.mark ? { kind: "text", text: entry.mark.repeat(entry.count) } : entry;
    const last = nodes.at(-1);
    if (node.kind === "text" && last?.kind === "text") {
      nodes[nodes.length - 1] = { kind: "text", text: last.text + node.text };
    } else if (node.kind !== "text" || node.text !== "") {
      nodes.push(node);
    }
  }
  return nodes;
}

/** How deep nodes are nested in each other. */
export function depthOf(nodes) {
  return nodes.reduce((most, node) => Math.max(most, node.depth ?? 0), 0);
}
