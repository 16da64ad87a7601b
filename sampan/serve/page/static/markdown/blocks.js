// The block structure of Markdown, read once and in the order in which a model writes it.
//
// A line joins the tree as soon as its beginning says what it is, and nothing that joined is read again: an
// answer costs time in proportion to its length, and what is on the screen stays. Beginnings that may still
// become something else ("--", "1.", a row of a table) wait for the rest of their line.
//
// CommonMark with GitHub's tables and tasks, but for what models do not mean: four spaces make no code block,
// a line of dashes is a rule and never turns the paragraph above it into a heading, and two spaces are
// enough to put a list into a list.

const DEEPEST = 20;
const LONGEST_BEGINNING = 256;

const QUOTE = /^ {0,3}> ?/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)/;
const FENCE = /^( *)(`{3,}|~{3,})([^`]*)$/;
const RULE = /^ *(?:(?:-\s*){3,}|(?:\*\s*){3,}|(?:_\s*){3,})$/;
const BULLET = /^( *)([-*+])( +|$)/;
const NUMBER = /^( *)(\d{1,9})[.)]( +|$)/;
const TASK = /^\[([ xX])\] +/;
const DELIMITER_ROW = /^ *\|?(?: *:?-+:? *\|)* *:?-+:? *\|? *$/;

// An unfinished line that may still become one of the above.
const UNDECIDED = [
  /^\s*$/,
  /^ {0,3}>$/,
  /^ {0,3}#{1,6}[ \t]*$/,
  /^ *(?:`{1,2}|`{3,}[^`]*)$/,
  /^ *(?:~{1,2}|~{3,}.*)$/,
  /^ *(?:(?:-\s*)+|(?:\*\s*)+|(?:_\s*)+|\+\s*)$/,
  /^ *\d{1,9}(?:[.)]\s*)?$/,
  /^ *\|/,
];

/**
 * Feeds a sink with the tree of a text that comes in pieces.
 *
 * The sink makes nodes: `container(parent, kind, details)` for "quote", "list" and "item", and
 * `leaf(parent, kind, details)` for "paragraph", "heading", "code", "table" and "rule". Leaves take
 * `append(text)` (a table: `row(cells)`), then `close()`. `loosen(list)` says that a list has blank lines.
 */
export class BlockParser {
  #sink;
  #root;
  #stack = [];
  #leaf = null;
  #line = "";
  #flowing = false; // the rest of this line goes to the leaf as it comes
  #held = false; // this line waits for its end
  #blank = false; // the line before this one was blank
  #header = null; // a line that is the head of a table if a row of dashes follows

  constructor(sink, root) {
    this.#sink = sink;
    this.#root = root;
  }

  push(text) {
    const lines = text.replaceAll("\r", "").split("\n");
    for (let i = 0; i < lines.length - 1; i += 1) {
      this.#extend(lines[i]);
      this.#endLine();
    }
    this.#extend(lines.at(-1));
  }

  finish() {
    if (this.#line || this.#flowing) this.#endLine();
    this.#dropHeader();
    this.#closeTo(0);
  }

  #extend(text) {
    if (!text) return;
    if (this.#flowing) {
      this.#leaf.append(text);
      return;
    }
    this.#line += text;
    if (this.#held) return;
    if (this.#begin(this.#line, false)) {
      this.#flowing = true;
      this.#line = "";
    } else if (this.#line.length > LONGEST_BEGINNING) {
      this.#held = true;
    }
  }

  #endLine() {
    if (!this.#flowing) this.#begin(this.#line, true);
    if (this.#leaf?.kind === "heading") this.#closeLeaf();
    if (this.#leaf?.kind === "code" && !this.#leaf.fresh) this.#leaf.append("\n");
    if (this.#leaf) this.#leaf.fresh = false;
    this.#line = "";
    this.#flowing = false;
    this.#held = false;
  }

  /** Takes a line, or the beginning of one; false when it could still be several things. */
  #begin(line, complete) {
    if (this.#leaf?.kind === "code") {
      const done = this.#codeLine(line, complete);
      if (done !== null) return done;
    }
    const [depth, rest] = this.#match(expandTabs(line));
    if (!complete && (this.#header !== null || this.#leaf?.kind === "table")) return false;
    if (rest.trim() === "") {
      if (complete) this.#blankLine(depth);
      return complete;
    }
    if (this.#header !== null) {
      if (depth === this.#stack.length && this.#table(this.#header, rest)) return true;
      this.#dropHeader();
    }
    const plan = this.#plan(depth, rest, complete);
    if (plan === null) return false;
    this.#apply(plan);
    return true;
  }

  /** A line of an open code block; null when its container has ended. */
  #codeLine(line, complete) {
    const { fence, indent } = this.#leaf;
    let rest = line;
    for (const container of this.#stack) {
      if (container.kind === "quote") {
        if (!QUOTE.test(rest)) return rest.trim() === "" && !complete ? false : null;
        rest = rest.replace(QUOTE, "");
      } else if (container.kind === "item") {
        rest = withoutIndent(rest, container.content);
      }
    }
    const bare = rest.trim();
    const onlyFence = bare === fence[0].repeat(bare.length);
    if (onlyFence && !complete) return false;
    if (onlyFence && bare.length >= fence.length) {
      this.#closeLeaf();
      return true;
    }
    this.#leaf.append(withoutIndent(rest, indent));
    return true;
  }

  /** How many of the open containers a line continues, and what is left of the line in them. */
  #match(line) {
    let rest = line;
    for (const [depth, container] of this.#stack.entries()) {
      if (container.kind === "quote") {
        if (!QUOTE.test(rest)) return [depth, rest];
        rest = rest.replace(QUOTE, "");
      } else if (container.kind === "item" && rest.trim() !== "") {
        if (indentOf(rest) < container.indent) return [depth, rest];
        rest = withoutIndent(rest, container.content);
      }
    }
    return [this.#stack.length, rest];
  }

  #blankLine(depth) {
    this.#dropHeader();
    if (this.#leaf) this.#closeLeaf();
    this.#closeTo(depth);
    this.#blank = true;
  }

  /** What a line opens below the containers that it continues; null when that is not known yet. */
  #plan(depth, line, complete) {
    const opens = [];
    let keep = depth;
    let rest = line;
    for (;;) {
      if (!complete && UNDECIDED.some((pattern) => pattern.test(rest))) return null;
      if (keep + opens.length >= DEEPEST || RULE.test(rest)) break;
      if (QUOTE.test(rest)) {
        if (opens.length === 0) keep = this.#endOfList(keep);
        opens.push({ kind: "quote" });
        rest = rest.replace(QUOTE, "");
        continue;
      }
      const marker = this.#marker(keep, opens, rest);
      if (marker === null) break;
      let after = rest.slice(marker.length);
      if (!complete && /^\[(?:[ xX](?:\] *)?)?$/.test(after)) return null;
      const task = TASK.exec(after);
      if (task) after = after.slice(task[0].length);
      if (opens.length === 0) {
        const list = this.#stack[keep - 1];
        if (list?.kind === "list" && list.ordered !== marker.ordered) keep -= 1;
      }
      const inList = opens.length === 0 && this.#stack[keep - 1]?.kind === "list";
      if (!inList) opens.push({ kind: "list", ordered: marker.ordered, start: marker.start });
      opens.push({ ...marker, kind: "item", checked: task ? task[1] !== " " : null });
      rest = after;
      if (rest === "") break;
    }
    if (!complete && this.#mayBecomeTable(opens, rest)) return null;
    return { keep, opens, rest, complete };
  }

  #marker(depth, opens, rest) {
    const bullet = BULLET.exec(rest);
    if (bullet) return item(bullet, 1, false, null);
    const number = NUMBER.exec(rest);
    if (!number) return null;
    const start = Number(number[2]);
    // A sentence that goes on with a year must not become a list.
    const interrupts = opens.length === 0 && this.#leaf?.kind === "paragraph";
    if (interrupts && start !== 1 && !this.#stack.some((container) => container.ordered)) return null;
    return item(number, number[2].length + 1, true, start);
  }

  /** A list whose item a line does not continue ends with it, unless the line is the list's next item. */
  #endOfList(depth) {
    return this.#stack[depth - 1]?.kind === "list" ? depth - 1 : depth;
  }

  #mayBecomeTable(opens, rest) {
    return opens.length === 0 && this.#leaf?.kind === "paragraph" && /^[-:| ]+$/.test(rest);
  }

  #apply({ keep, opens, rest, complete }) {
    const heading = HEADING.exec(rest);
    const fence = complete ? FENCE.exec(rest) : null;
    const rule = complete && RULE.test(rest);
    const plain = !heading && !fence && !rule;
    if (plain && opens.length === 0 && this.#leaf?.kind === "paragraph") {
      if (complete && keep === this.#stack.length && this.#tableFromParagraph(rest)) return;
      this.#leaf.append(`\n${rest.trimStart()}`);
      this.#blank = false;
      return;
    }
    if (plain && opens.length === 0 && keep === this.#stack.length && this.#leaf?.kind === "table") {
      if (rest.includes("|")) {
        this.#leaf.row(cells(rest));
        return;
      }
    }
    this.#closeTo(opens[0]?.kind === "item" ? keep : this.#endOfList(keep));
    this.#openContainers(opens);
    this.#blank = false;
    if (heading) {
      this.#openLeaf("heading", { level: heading[1].length });
      this.#leaf.append(rest.slice(heading[0].length));
    } else if (fence) {
      const language = fence[3].trim().split(/\s/, 1)[0];
      this.#openLeaf("code", { language, fence: fence[2], indent: fence[1].length });
    } else if (rule) {
      this.#openLeaf("rule", {});
      this.#closeLeaf();
    } else if (complete && /^ *\|/.test(rest)) {
      this.#header = rest;
    } else if (rest.trim() !== "") {
      this.#openLeaf("paragraph", {});
      this.#leaf.append(rest.trimStart());
    }
  }

  #openContainers(opens) {
    const top = this.#stack.at(-1);
    if (this.#blank && opens[0]?.kind === "item") this.#sink.loosen(top.node);
    if (this.#blank && opens.length === 0 && top?.kind === "item") this.#sink.loosen(this.#stack.at(-2).node);
    for (const open of opens) {
      const parent = this.#stack.at(-1)?.node ?? this.#root;
      this.#stack.push({ ...open, node: this.#sink.container(parent, open.kind, open) });
    }
  }

  #tableFromParagraph(rest) {
    if (!rest.includes("|") || !DELIMITER_ROW.test(rest)) return false;
    const header = this.#leaf.lastLine();
    if (!header.includes("|") || cells(header).length !== cells(rest).length) return false;
    this.#leaf.dropLastLine();
    this.#closeLeaf();
    return this.#table(header, rest);
  }

  #table(header, rest) {
    const [head, dashes] = [cells(header), cells(rest)];
    if (!DELIMITER_ROW.test(rest) || head.length !== dashes.length) return false;
    this.#header = null;
    this.#openLeaf("table", { head, alignments: dashes.map(alignment) });
    return true;
  }

  #dropHeader() {
    if (this.#header === null) return;
    const header = this.#header.trimStart();
    this.#header = null;
    this.#openLeaf("paragraph", {});
    this.#leaf.append(header);
  }

  #openLeaf(kind, details) {
    const parent = this.#stack.at(-1)?.node ?? this.#root;
    this.#leaf = this.#sink.leaf(parent, kind, details);
    this.#leaf.kind = kind;
    this.#leaf.fresh = true;
    this.#leaf.fence = details.fence;
    this.#leaf.indent = details.indent;
  }

  #closeLeaf() {
    this.#leaf.close();
    this.#leaf = null;
  }

  #closeTo(depth) {
    if (this.#leaf) this.#closeLeaf();
    this.#stack.length = Math.min(this.#stack.length, depth);
  }
}

/** The cells of a table's row; a bar after a backslash or in code belongs to its cell. */
export function cells(line) {
  const inner = line
    .trim()
    .replace(/^\|/, "")
    .replace(/(?<!\\)\|$/, "");
  const found = [];
  let cell = "";
  let code = false;
  for (let i = 0; i < inner.length; i += 1) {
    const char = inner[i];
    if (char === "`") code = !code && inner.indexOf("`", i + 1) > 0;
    if (char === "\\" && inner[i + 1] === "|") {
      cell += "|";
      i += 1;
    } else if (char === "|" && !code) {
      found.push(cell.trim());
      cell = "";
    } else {
      cell += char;
    }
  }
  return [...found, cell.trim()];
}

function alignment(dashes) {
  const [left, right] = [dashes.startsWith(":"), dashes.endsWith(":")];
  if (left && right) return "center";
  return right ? "right" : null;
}

function item(match, markerLength, ordered, start) {
  const before = match[1].length;
  const spaces = match[3].length;
  const content = before + markerLength + (spaces >= 1 && spaces <= 4 ? spaces : 1);
  return {
    ordered,
    start,
    length: match[0].length,
    content,
    indent: Math.min(content, before + 2),
  };
}

function indentOf(line) {
  return line.length - line.trimStart().length;
}

function withoutIndent(line, most) {
  return line.slice(Math.min(indentOf(line), most));
}

function expandTabs(line) {
  return line.replace(/^[ \t]+/, (space) => space.replaceAll("\t", "    "));
}
