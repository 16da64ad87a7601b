// Shows Markdown as DOM nodes, growing with the text. Only what changed since the last flush is touched.

import { element } from "../lib/dom.js";
import { BlockParser } from "./blocks.js";
import { highlighter } from "./highlight.js";
import { parseInline } from "./inline.js";

// Beyond this many characters a paragraph is not parsed for every piece that arrives.
const LONG_PARAGRAPH = 4096;

/**
 * Markdown that is being written. `push` takes more text, `flush` shows it (call it once a frame), `finish`
 * takes back what only held while the end was open.
 *
 * `codeHeader(language, text)` gives the element above a code block; `text()` is the block's code.
 */
export class MarkdownView {
  #parser;
  #touched = new Set();

  constructor(root, codeHeader) {
    const touched = this.#touched;
    const sink = {
      container: (parent, kind, details) => addContainer(parent, kind, details),
      loosen: (list) => list.classList.add("loose"),
      leaf: (parent, kind, details) => {
        const leaf = makeLeaf(parent, kind, details, codeHeader);
        leaf.touch = () => touched.add(leaf);
        return leaf;
      },
    };
    this.#parser = new BlockParser(sink, root);
  }

  push(text) {
    this.#parser.push(text);
  }

  flush() {
    for (const leaf of this.#touched) leaf.show();
    this.#touched.clear();
  }

  finish() {
    this.#parser.finish();
    this.flush();
  }
}

function addContainer(parent, kind, { ordered, start, checked }) {
  let node;
  if (kind === "quote") {
    node = element("blockquote");
  } else if (kind === "list") {
    node = ordered ? element("ol", { start: start === 1 ? null : start }) : element("ul");
  } else {
    node = element("li");
    if (checked !== null) {
      node.classList.add("task");
      node.append(element("input", { type: "checkbox", disabled: true, checked }));
    }
  }
  parent.append(node);
  return node;
}

function makeLeaf(parent, kind, details, codeHeader) {
  switch (kind) {
    case "code":
      return new CodeLeaf(parent, details.language, codeHeader);
    case "table":
      return new TableLeaf(parent, details);
    case "rule":
      parent.append(element("hr"));
      return { close: () => {} };
    default:
      return new InlineLeaf(parent, kind === "heading" ? `h${details.level}` : "p");
  }
}

/** A paragraph or heading: parsed anew as it grows, but nodes that stay the same are kept. */
class InlineLeaf {
  #element;
  #text = "";
  #nodes = [];
  #parsed = 0; // how much of the text the nodes stand for
  #tail = document.createTextNode(""); // the rest
  #open = true;

  constructor(parent, tag) {
    this.#element = element(tag);
    parent.append(this.#element);
  }

  append(text) {
    this.#text += text;
    this.touch();
  }

  lastLine() {
    return this.#text.slice(this.#text.lastIndexOf("\n") + 1);
  }

  dropLastLine() {
    this.#text = this.#text.slice(0, Math.max(this.#text.lastIndexOf("\n"), 0));
  }

  close() {
    this.#open = false;
    if (this.#element.localName !== "p") this.#text = this.#text.replace(/(^|\s)#+\s*$/, "");
    this.touch();
  }

  show() {
    if (this.#open && this.#text.length > LONG_PARAGRAPH) {
      // So many more characters at a time that all parsing together stays in proportion to the text.
      const grown = this.#text.length - this.#parsed;
      if (grown < this.#parsed / 32) {
        this.#showTail(this.#text.slice(this.#parsed));
        return;
      }
    }
    this.#showTail("");
    const nodes = parseInline(this.#text.trimEnd(), this.#open);
    patch(this.#element, this.#nodes, nodes);
    this.#nodes = nodes;
    this.#parsed = this.#text.length;
    // What was only the head of a table leaves nothing behind.
    if (!this.#open && nodes.length === 0) this.#element.remove();
  }

  #showTail(text) {
    this.#tail.data = text;
    if (text === "") this.#tail.remove();
    else if (this.#tail.parentNode === null) this.#element.append(this.#tail);
  }
}

/** A code block: complete lines are coloured once. */
class CodeLeaf {
  #code;
  #highlighter;
  #line = "";
  #state = null;
  #lineNodes = [];
  #waiting = []; // complete lines that are not shown yet
  #text = [];

  constructor(parent, language, codeHeader) {
    this.#code = element("code");
    this.#highlighter = highlighter(language);
    const header = codeHeader(language, () => this.#text.join("").replace(/\n$/, ""));
    parent.append(
      element("figure", { class: "code" }, header, element("pre", { tabindex: "0" }, this.#code)),
    );
  }

  append(text) {
    this.#text.push(text);
    const lines = text.split("\n");
    for (const line of lines.slice(0, -1)) {
      this.#waiting.push(this.#line + line);
      this.#line = "";
    }
    this.#line += lines.at(-1);
    this.touch();
  }

  close() {}

  show() {
    for (const node of this.#lineNodes) node.remove();
    for (const line of this.#waiting) {
      this.#code.append(...this.#coloured(line, true), "\n");
    }
    this.#waiting = [];
    this.#lineNodes = this.#coloured(this.#line, false);
    this.#code.append(...this.#lineNodes);
  }

  #coloured(line, complete) {
    if (!this.#highlighter) return [document.createTextNode(line)];
    const { tokens, state } = this.#highlighter(line, this.#state);
    if (complete) this.#state = state;
    return tokens.map(([kind, text]) =>
      kind ? element("span", { class: `code-${kind}` }, text) : document.createTextNode(text),
    );
  }
}

class TableLeaf {
  #body = element("tbody");
  #alignments;

  constructor(parent, { head, alignments }) {
    this.#alignments = alignments;
    const table = element("table", {}, element("thead", {}, this.#row("th", head)), this.#body);
    parent.append(element("div", { class: "table", tabindex: "0" }, table));
  }

  row(cells) {
    this.#body.append(this.#row("td", cells));
  }

  close() {}

  #row(tag, cells) {
    const row = element("tr");
    for (const [column, alignment] of this.#alignments.entries()) {
      row.append(element(tag, { class: alignment }, ...parseInline(cells[column] ?? "").map(toDom)));
    }
    return row;
  }
}

/** Makes `parent`'s children those of `after`; the first ones that are as before are not touched. */
function patch(parent, before, after) {
  let same = 0;
  while (same < before.length && same < after.length && isSame(before[same], after[same])) same += 1;
  if (before[same]?.kind === "text" && after[same]?.kind === "text") {
    parent.childNodes[same].data = after[same].text;
    same += 1;
  }
  while (parent.childNodes.length > same) parent.lastChild.remove();
  parent.append(...after.slice(same).map(toDom));
}

function isSame(one, other) {
  if (one.kind !== other.kind || one.text !== other.text || one.address !== other.address) return false;
  const [children, others] = [one.children ?? [], other.children ?? []];
  return children.length === others.length && children.every((child, index) => isSame(child, others[index]));
}

const TAGS = { code: "code", strong: "strong", emphasis: "em", strike: "del" };

function toDom(node) {
  if (node.kind === "text") return document.createTextNode(node.text);
  if (node.kind === "break") return element("br");
  const children = (node.children ?? []).map(toDom);
  if (node.kind === "link") {
    const attributes = { href: node.address, title: node.title ?? node.address, target: "_blank" };
    return element("a", { ...attributes, rel: "noopener noreferrer nofollow" }, ...children);
  }
  return element(TAGS[node.kind], {}, ...(node.kind === "code" ? [node.text] : children));
}
