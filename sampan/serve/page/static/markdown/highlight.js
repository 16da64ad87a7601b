// Light colouring of code, line by line: comments, strings, numbers and keywords, from a table of languages.

// Longer lines are data rather than code.
const LONGEST_LINE = 2000;

const words = (text) => new Set(text.split(" "));

const PYTHON = {
  line: ["#"],
  strings: ['"""', "'''", '"', "'"],
  keywords: words(
    "and as assert async await break case class continue def del elif else except finally for from global if " +
      "import in is lambda match nonlocal not or pass raise return try while with yield None True False self",
  ),
};
const JAVASCRIPT = {
  line: ["//"],
  block: ["/*", "*/"],
  strings: ['"', "'", "`"],
  multiline: ["`"],
  keywords: words(
    "abstract as async await break case catch class const continue debugger default delete do else enum export " +
      "extends false finally for from function get if implements import in instanceof interface let new null of " +
      "private protected public readonly return set static super switch this throw true try type typeof " +
      "undefined var void while yield",
  ),
};
const C_LIKE = {
  line: ["//"],
  block: ["/*", "*/"],
  strings: ['"', "'"],
  keywords: words(
    "abstract as async auto await bool break byte case catch char class const continue default defer delete do " +
      "double dyn else enum extends extern false final finally float fn for func go goto if impl implements " +
      "import in include inline int interface let long loop map match mod move mut namespace new nil null " +
      "nullptr operator override package private protected pub public range return self short signed sizeof " +
      "static string struct super switch template this throw trait true try type typedef union unsafe unsigned " +
      "use using var virtual void volatile where while",
  ),
};
const SHELL = {
  line: ["#"],
  strings: ['"', "'"],
  multiline: ['"', "'"],
  keywords: words(
    "case cd do done echo elif else esac exit export fi for function if in local read return set shift source " +
      "sudo then unset until while",
  ),
};
const SQL = {
  line: ["--"],
  block: ["/*", "*/"],
  strings: ["'", '"'],
  ignoreCase: true,
  keywords: words(
    "add all alter and as asc between by case create cross default delete desc distinct drop else end exists " +
      "from full group having if in index inner insert into is join key left like limit not null offset on or " +
      "order outer primary references right select set table then union unique update values view when where with",
  ),
};
const DATA = { strings: ['"', "'"], keywords: words("true false null yes no on off") };
const JSON_DATA = { strings: ['"'], keywords: words("true false null") };
const MARKED_DATA = { ...DATA, line: ["#"] };
const CSS = {
  block: ["/*", "*/"],
  strings: ['"', "'"],
  keywords: words("important inherit initial none auto"),
};
const MARKUP = { block: ["<!--", "-->"], strings: ['"', "'"], keywords: words("") };

const LANGUAGES = {
  ...named(PYTHON, "python py python3"),
  ...named(JAVASCRIPT, "javascript js jsx mjs typescript ts tsx"),
  ...named(C_LIKE, "c h cpp c++ cc hpp csharp cs c# go golang java kotlin rust rs swift zig"),
  ...named(SHELL, "bash sh shell zsh console"),
  ...named(SQL, "sql sqlite postgresql mysql"),
  ...named(JSON_DATA, "json jsonc json5"),
  ...named(MARKED_DATA, "yaml yml toml ini"),
  ...named(CSS, "css scss"),
  ...named(MARKUP, "html xml svg"),
};

function named(language, names) {
  return Object.fromEntries(names.split(" ").map((name) => [name, language]));
}

/**
 * A function (line, state) -> {tokens, state} for a language's name, or null for one that is not known.
 * Tokens are [kind or null, text]; `state` goes from each line to the next, null at first.
 */
export function highlighter(name) {
  const key = name.toLowerCase();
  if (!Object.hasOwn(LANGUAGES, key)) return null;
  return (line, state) => colour(LANGUAGES[key], line, state);
}

function colour(language, line, state) {
  if (line.length > LONGEST_LINE) return { tokens: [[null, line]], state };
  const tokens = [];
  let rest = line;
  let inside = state; // {kind, end} of a string or comment that goes over lines
  const take = (kind, length) => {
    if (length > 0) push(tokens, kind, rest.slice(0, length));
    rest = rest.slice(length);
  };
  while (rest) {
    if (inside) {
      const end = endOf(rest, inside);
      if (end === null) {
        take(inside.kind, rest.length);
        return { tokens, state: inside.overLines ? inside : null };
      }
      take(inside.kind, end);
      inside = null;
      continue;
    }
    const lineComment = language.line?.find((mark) => rest.startsWith(mark));
    if (lineComment && !(lineComment === "#" && /\S$/.test(tokens.at(-1)?.[1] ?? ""))) {
      take("comment", rest.length);
    } else if (language.block && rest.startsWith(language.block[0])) {
      take("comment", language.block[0].length);
      inside = { kind: "comment", end: language.block[1], overLines: true };
    } else {
      const quote = language.strings.find((mark) => rest.startsWith(mark));
      if (quote) {
        take("string", quote.length);
        const overLines = quote.length === 3 || (language.multiline?.includes(quote) ?? false);
        inside = { kind: "string", end: quote, overLines };
      } else {
        word(language, rest, take);
      }
    }
  }
  return { tokens, state: inside?.overLines ? inside : null };
}

function word(language, rest, take) {
  const name = /^[\p{L}_$][\p{L}\p{N}_$]*/u.exec(rest)?.[0];
  if (name) {
    const plain = language.ignoreCase ? name.toLowerCase() : name;
    const called = /^\s*\(/.test(rest.slice(name.length, name.length + 8));
    take(language.keywords.has(plain) ? "keyword" : called ? "function" : null, name.length);
    return;
  }
  const number = /^(?:0[xXbBoO][\da-fA-F_]+|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)/.exec(rest)?.[0];
  if (number) take("number", number.length);
  else take(null, Math.max(/^[^\p{L}\p{N}_$"'`#/\-<*]+/u.exec(rest)?.[0].length ?? 0, 1));
}

/** Where a string or comment ends, its mark included; null when not on this line. */
function endOf(text, { kind, end }) {
  for (let at = 0; at < text.length; at += 1) {
    if (kind === "string" && text[at] === "\\") at += 1;
    else if (text.startsWith(end, at)) return at + end.length;
  }
  return null;
}

function push(tokens, kind, text) {
  const last = tokens.at(-1);
  if (last && last[0] === kind) last[1] += text;
  else tokens.push([kind, text]);
}
