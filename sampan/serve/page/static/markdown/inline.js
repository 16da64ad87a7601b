// Emphasis, code, links and breaks within one paragraph: text in, a tree of plain objects out.
//
// The rules are CommonMark's, with two for Chinese and Japanese: a mark beside such a character may open and
// close emphasis, because there are no spaces between words. Every line break is shown. Images are links,
// because the page loads nothing from elsewhere.

import { depthOf, emphasize } from "./emphasis.js";

const LONGEST_ADDRESS = 2048;
const DEEPEST_BRACKETS = 24; // within an address

const PLAIN = /(?:(?!https?:\/\/)[^\\`*_~[\]!<&\n])+/y;
const BARE_ADDRESS = /https?:\/\/[\x21\x23-\x26\x28-\x3b\x3d\x3f-\x5f\x61-\x7b\x7d\x7e]{1,2048}/y;
const ANGLE_ADDRESS = /<((?:https?:\/\/|mailto:)[^\s<>]+)>/y;
const ENTITY = /&(?:(amp|lt|gt|quot|apos|nbsp)|#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6}));/y;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };

const SPACE = /^\s$/u;
const PUNCTUATION = /^[\p{P}\p{S}]$/u;
const IDEOGRAPH =
  /^[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\u3000-\u303f\uff00-\uffef]$/u;

/**
 * The tree of a paragraph's text: nodes {kind: "text" | "code", text}, {kind: "strong" | "emphasis" |
 * "strike", children}, {kind: "link", address, title, children} and {kind: "break"}.
 *
 * `open`: more text will follow; marks without an end yet are taken to end here.
 */
export function parseInline(text, open = false) {
  return new InlineParser(open ? withoutUnfinishedEnd(text) : text, open).parse();
}

/** The address if a click on it is safe, else null: absolute, and of a kind that runs nothing. */
export function safeAddress(address) {
  if (!URL.canParse(address)) return null;
  const url = new URL(address);
  return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
}

function withoutUnfinishedEnd(text) {
  const link = /!?\[([^[\]\n]{1,200})\]\([^()\s]*$/.exec(text);
  const whole = link ? text.slice(0, link.index) + link[1] : text;
  return whole.replace(/[*_~`]+$/, "").trimEnd();
}

class InlineParser {
  #text;
  #open;
  #at = 0;
  #items = []; // nodes and {mark} of what may yet be emphasis
  #brackets = []; // where links may begin: {index, image, active}
  #ticks = null; // positions of runs of backticks, by length

  constructor(text, open) {
    this.#text = text;
    this.#open = open;
  }

  parse() {
    while (this.#at < this.#text.length) this.#step();
    return emphasize(this.#items, this.#open);
  }

  #step() {
    const char = this.#text[this.#at];
    const plain = this.#take(PLAIN);
    if (plain) return this.#add(plain[0]);
    switch (char) {
      case "\n":
        return this.#break();
      case "\\":
        return this.#escape();
      case "`":
        return this.#code();
      case "*":
      case "_":
      case "~":
        return this.#mark(char);
      case "!":
      case "[":
        return this.#openBracket(char);
      case "]":
        return this.#closeBracket();
      case "<":
        return this.#angle();
      case "&":
        return this.#entity();
      default:
        return this.#bareAddress();
    }
  }

  #take(pattern) {
    pattern.lastIndex = this.#at;
    const match = pattern.exec(this.#text);
    if (match) this.#at = pattern.lastIndex;
    return match;
  }

  #add(text) {
    const last = this.#items.at(-1);
    if (last?.kind === "text") last.text += text;
    else this.#items.push({ kind: "text", text });
  }

  #break() {
    const last = this.#items.at(-1);
    if (last?.kind === "text") last.text = last.text.trimEnd();
    this.#items.push({ kind: "break" });
    this.#at += 1;
    while (this.#text[this.#at] === " ") this.#at += 1;
  }

  #escape() {
    const next = this.#text[this.#at + 1];
    if (next === "\n") {
      this.#at += 1;
    } else if (next !== undefined && /[!-/:-@[-`{-~]/.test(next)) {
      this.#add(next);
      this.#at += 2;
    } else {
      this.#add("\\");
      this.#at += 1;
    }
  }

  #code() {
    const length = runLength(this.#text, this.#at);
    const begin = this.#at + length;
    let end = this.#closingTicks(begin, length);
    if (end === null && this.#open) end = this.#text.length;
    if (end === null) {
      this.#add("`".repeat(length));
      this.#at = begin;
      return;
    }
    let code = this.#text.slice(begin, end).replaceAll("\n", " ");
    if (code.startsWith(" ") && code.endsWith(" ") && code.trim()) code = code.slice(1, -1);
    this.#items.push({ kind: "code", text: code });
    this.#at = end + length;
  }

  #closingTicks(from, length) {
    if (this.#ticks === null) {
      this.#ticks = new Map();
      for (const run of this.#text.matchAll(/`+/g)) {
        const key = run[0].length;
        if (!this.#ticks.has(key)) this.#ticks.set(key, []);
        this.#ticks.get(key).push(run.index);
      }
      for (const positions of this.#ticks.values()) positions.reverse();
    }
    const positions = this.#ticks.get(length) ?? [];
    while (positions.length > 0 && positions.at(-1) < from) positions.pop();
    return positions.at(-1) ?? null;
  }

  #mark(char) {
    const count = runLength(this.#text, this.#at);
    const before = characterBefore(this.#text, this.#at);
    const after = characterAfter(this.#text, this.#at + count);
    this.#at += count;
    const [spaceBefore, spaceAfter] = [SPACE.test(before), SPACE.test(after)];
    const [edgeBefore, edgeAfter] = [isEdge(before), isEdge(after)];
    const left = !spaceAfter && (!PUNCTUATION.test(after) || spaceBefore || edgeBefore);
    const right = !spaceBefore && (!PUNCTUATION.test(before) || spaceAfter || edgeAfter);
    const word = char === "_";
    this.#items.push({
      mark: char,
      count,
      length: count,
      opens: left && (!word || !right || PUNCTUATION.test(before)),
      closes: right && (!word || !left || PUNCTUATION.test(after)),
      alone: spaceBefore || edgeBefore,
    });
  }

  #openBracket(char) {
    const image = char === "!";
    if (image && this.#text[this.#at + 1] !== "[") {
      this.#add("!");
      this.#at += 1;
      return;
    }
    this.#brackets.push({ index: this.#items.length, active: true });
    this.#items.push({ kind: "text", text: image ? "![" : "[", bracket: true });
    // Text after it must not join the bracket, which a link replaces.
    this.#items.push({ kind: "text", text: "" });
    this.#at += image ? 2 : 1;
  }

  #closeBracket() {
    const bracket = this.#brackets.pop();
    this.#at += 1;
    const target = bracket?.active ? linkTarget(this.#text, this.#at) : null;
    const address = target && safeAddress(target.address);
    if (!address) {
      this.#add("]");
      return;
    }
    const inside = this.#items.splice(bracket.index).slice(1);
    const children = emphasize(inside, false);
    this.#items.push({ kind: "link", address, title: target.title, children, depth: depthOf(children) + 1 });
    for (const outer of this.#brackets) outer.active = false;
    this.#at = target.end;
  }

  #angle() {
    const match = this.#take(ANGLE_ADDRESS);
    const address = match && safeAddress(match[1]);
    if (address) {
      this.#link(address, match[1].replace(/^mailto:/, ""));
    } else if (match) {
      this.#add(match[0]);
    } else {
      this.#add("<");
      this.#at += 1;
    }
  }

  #bareAddress() {
    const start = this.#at;
    const match = this.#take(BARE_ADDRESS);
    const shown = match ? withoutTrailingMarks(match[0]) : "";
    const address = match && shown.length < LONGEST_ADDRESS ? safeAddress(shown) : null;
    if (address) {
      this.#link(address, shown);
      this.#at = start + shown.length;
    } else {
      this.#at = start + Math.max(shown.length, 1);
      this.#add(this.#text.slice(start, this.#at));
    }
  }

  #link(address, shown) {
    this.#items.push({
      kind: "link",
      address,
      title: null,
      children: [{ kind: "text", text: shown }],
      depth: 1,
    });
  }

  #entity() {
    const match = this.#take(ENTITY);
    if (!match) {
      this.#add("&");
      this.#at += 1;
      return;
    }
    const code = match[2] ? Number(match[2]) : parseInt(match[3] ?? "0", 16);
    const valid = code > 0 && code <= 0x10ffff;
    this.#add(match[1] ? ENTITIES[match[1]] : String.fromCodePoint(valid ? code : 0xfffd));
  }
}

/** "(address "title")" at a position: {address, title, end}, or null. */
function linkTarget(text, at) {
  if (text[at] !== "(") return null;
  const part = text.slice(at + 1, at + 1 + LONGEST_ADDRESS);
  const begin = /^\s*/.exec(part)[0].length;
  const angle = /^<([^<>\n]*)>/.exec(part.slice(begin));
  let end = begin;
  if (angle) {
    end += angle[0].length;
  } else {
    for (let depth = 0; end < part.length && !/\s/.test(part[end]); end += 1) {
      if (part[end] === "(" && (depth += 1) > DEEPEST_BRACKETS) return null;
      if (part[end] === ")" && (depth -= 1) < 0) break;
    }
  }
  const tail = /^(?:\s+(?:"([^"]*)"|'([^']*)'))?\s*\)/.exec(part.slice(end));
  if (!tail) return null;
  const address = angle ? angle[1] : part.slice(begin, end);
  return { address, title: tail[1] ?? tail[2] ?? null, end: at + 1 + end + tail[0].length };
}

/** A sentence's end and a bracket around an address are not part of it. */
function withoutTrailingMarks(address) {
  let end = address.length;
  let unopened = address.split(")").length - address.split("(").length;
  while (end > 0) {
    const last = address[end - 1];
    if (last === ")" && unopened > 0) unopened -= 1;
    else if (!/[.,:;!?*_~\]]/.test(last)) break;
    end -= 1;
  }
  return address.slice(0, end);
}

function runLength(text, at) {
  let end = at;
  while (text[end] === text[at]) end += 1;
  return end - at;
}

function isEdge(character) {
  return PUNCTUATION.test(character) || IDEOGRAPH.test(character);
}

/** The character before a position; the text's edges count as space. */
function characterBefore(text, at) {
  if (at === 0) return " ";
  const low = text.charCodeAt(at - 1);
  const isPair = low >= 0xdc00 && low <= 0xdfff && at > 1;
  return isPair ? text.slice(at - 2, at) : text[at - 1];
}

function characterAfter(text, at) {
  return at < text.length ? String.fromCodePoint(text.codePointAt(at)) : " ";
}
