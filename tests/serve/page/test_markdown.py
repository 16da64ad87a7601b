"""Markdown in the browser, as the page shows it: right, safe, and in any cut."""

# ruff: noqa: RUF001 - Chinese punctuation is meant
from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from playwright.sync_api import Page

ROOT = Path(__file__).parents[3]

# Shows text that comes in pieces; `flushes`: shown after every piece, as while streaming.
SHOW = """async ([text, cut, flushes]) => {
    const { MarkdownView } = await import("/page/markdown/view.js");
    const root = document.createElement("div");
    const view = new MarkdownView(root, (language) => {
        const header = document.createElement("figcaption");
        header.append(language);
        return header;
    });
    for (let at = 0; at < text.length; at += cut) {
        view.push(text.slice(at, at + cut));
        if (flushes) view.flush();
    }
    view.finish();
    return root.innerHTML;
}"""
# The same, not finished: what is on the screen at this moment.
SHOW_OPEN = SHOW.replace("view.finish();", "view.flush();")

# Adds pieces of four characters and counts the nodes that are added to the tree on the way.
COUNT = """async (text) => {
    const { MarkdownView } = await import("/page/markdown/view.js");
    const root = document.createElement("div");
    const view = new MarkdownView(root, () => document.createElement("figcaption"));
    let added = 0;
    const observer = new MutationObserver(() => {});
    observer.observe(root, { childList: true, subtree: true });
    for (let at = 0; at < text.length; at += 4) {
        view.push(text.slice(at, at + 4));
        view.flush();
        for (const record of observer.takeRecords()) added += record.addedNodes.length;
    }
    return added;
}"""


def show(page: Page, text: str, cut: int = 1_000_000, *, flushes: bool = True) -> str:
    return str(page.evaluate(SHOW, [text, cut, flushes]))


CASES = {
    "# One\n## Two ##\n####### no": "<h1>One</h1><h2>Two</h2><p>####### no</p>",
    "a\nb\\\nc": "<p>a<br>b<br>c</p>",
    "**b** *i* ***both*** ~~s~~ `c`": "<p><strong>b</strong> <em>i</em> <em><strong>both</strong></em> "
    "<del>s</del> <code>c</code></p>",
    "snake_case_name 2 * 3 * 4 5*": "<p>snake_case_name 2 * 3 * 4 5*</p>",
    "**重要：**小心": "<p><strong>重要：</strong>小心</p>",
    "中文**“引号”**中文": "<p>中文<strong>“引号”</strong>中文</p>",
    "- a\n  - b\n    1. c\n- d": "<ul><li><p>a</p><ul><li><p>b</p><ol><li><p>c</p></li></ol></li></ul></li>"
    "<li><p>d</p></li></ul>",
    "3. c\n4. d": '<ol start="3"><li><p>c</p></li><li><p>d</p></li></ol>',
    "- a\n\n- b": '<ul class="loose"><li><p>a</p></li><li><p>b</p></li></ul>',
    "- [ ] a\n- [x] b": '<ul><li class="task"><input type="checkbox" disabled=""><p>a</p></li>'
    '<li class="task"><input type="checkbox" disabled="" checked=""><p>b</p></li></ul>',
    "In\n1986. A year": "<p>In<br>1986. A year</p>",
    "> a\nb\n> - c": "<blockquote><p>a<br>b</p><ul><li><p>c</p></li></ul></blockquote>",
    "text\n---\nmore\n***": "<p>text</p><hr><p>more</p><hr>",
    "```none\na < b\n\n  c\n```\nd": '<figure class="code"><figcaption>none</figcaption><pre tabindex="0">'
    "<code>a &lt; b\n\n  c\n</code></pre></figure><p>d</p>",
    "~~~\n```\n~~~": '<figure class="code"><figcaption></figcaption><pre tabindex="0"><code>```\n'
    "</code></pre></figure>",
    "```py\nx = '#' # y": '<figure class="code"><figcaption>py</figcaption><pre tabindex="0"><code>x = '
    '<span class="code-string">\'#\'</span> <span class="code-comment"># y</span>\n</code></pre></figure>',
    "| a | b |\n|---|--:|\n| `1|2` | 3 \\| 4 | 5 |\n| 6": '<div class="table" tabindex="0"><table><thead><tr>'
    '<th>a</th><th class="right">b</th></tr></thead><tbody><tr><td><code>1|2</code></td>'
    '<td class="right">3 | 4</td></tr><tr><td>6</td><td class="right"></td></tr></tbody></table></div>',
    "| a |\nb": "<p>| a |<br>b</p>",
    "a & b &lt;b&gt; &#65; \\*c\\*": "<p>a &amp; b &lt;b&gt; A *c*</p>",
}


@pytest.mark.parametrize("text", CASES)
@pytest.mark.parametrize("cut", [1, 7, 1_000_000])
def test_markdown(blank_page: Page, text: str, cut: int) -> None:
    assert show(blank_page, text, cut) == CASES[text]


LINKS = {
    "[a](https://b.example/c_d_e)": ("https://b.example/c_d_e", "a"),
    '[a](<https://b.example/x y> "t")': ("https://b.example/x%20y", "a"),
    "<https://b.example>": ("https://b.example/", "https://b.example"),
    "(see https://b.example/a_(b).)": ("https://b.example/a_(b)", "https://b.example/a_(b)"),
    "见https://b.example/c。好": ("https://b.example/c", "https://b.example/c"),
    "<mailto:a@b.example>": ("mailto:a@b.example", "a@b.example"),
    "![a picture](https://b.example/p.png)": ("https://b.example/p.png", "a picture"),
}


@pytest.mark.parametrize("text", LINKS)
def test_links_open_elsewhere_and_tell_nothing(blank_page: Page, text: str) -> None:
    (link,) = re.findall(r"<a .*?</a>", show(blank_page, text, 1))
    address, words = LINKS[text]
    assert f'href="{address}"' in link
    assert 'target="_blank" rel="noopener noreferrer nofollow"' in link
    assert link.endswith(f">{words}</a>")


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '<svg onload="alert(1)"><a href="javascript:alert(1)">x</a></svg>',
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](\x01javascript:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:x) [x](file:///etc/passwd) [x](blob:x)",
    "[x](//b.example) [x](/v1/models) [x](?q) [x](#x)",
    "<javascript:alert(1)> <data:text/html,x>",
    "```<script>\n</code></pre><script>alert(1)</script>\n```",
    "| <script>alert(1)</script> |\n|---|\n| <img src=x onerror=alert(1)> |",
    "# <iframe src=//b.example></iframe>",
    "- [ ] <b onclick=alert(1)>",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_model_writes_stays_text(blank_page: Page, text: str) -> None:
    html = show(blank_page, text, 1)
    assert not re.search(r"<(?:script|img|svg|iframe|b|a)\b", html)
    assert not re.search(r"<[^>]*\s(?:on\w+|src|style|href)=", html)


def test_an_image_is_not_fetched(blank_page: Page) -> None:
    asked: list[str] = []
    blank_page.on("request", lambda request: asked.append(request.url))
    shown = blank_page.evaluate(
        SHOW, ["![x](https://b.example/p.png) ![x][y]\n\n[y]: https://b.example/q", 5, True]
    )
    assert "<img" not in shown
    assert not [url for url in asked if "b.example" in url]


ALLOWED = frozenset(
    re.findall(
        r"\w+",
        "p h1 h2 h3 h4 h5 h6 ul ol li blockquote hr figure figcaption pre code span div table thead tbody tr "
        "th td strong em del a br input",
    )
)
PARTS = st.sampled_from(
    [
        *"*_~`[]()<>!|#-+.:\\& \n\tab1",
        *(
            "**",
            "```",
            "\n\n",
            "- ",
            "1. ",
            "> ",
            "| a | b |\n|---|---|\n",
            "  ",
            "    ",
            "中",
            "。",
            "\U0001f6f6",
        ),
        *("[x](https://b.example)", "https://b.example", "\n```py\n", "<b>", "- [x] "),
    ]
)


@settings(max_examples=60)
@given(text=st.lists(PARTS, max_size=60).map("".join), cut=st.integers(1, 9))
def test_the_cut_does_not_matter(blank_page: Page, text: str, cut: int) -> None:
    """Any text: the same nodes for every cut, of known kinds, and no letter of it is lost."""
    html = show(blank_page, text)
    assert show(blank_page, text, cut) == html
    assert show(blank_page, text, cut, flushes=False) == html
    assert set(re.findall(r"<(\w+)", html)) <= ALLOWED
    shown = re.sub(r"<[^>]*>", "", html)
    for letter in "中\U0001f6f6":
        assert shown.count(letter) == text.count(letter)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a **bo", "<p>a <strong>bo</strong></p>"),
        ("a **", "<p>a</p>"),
        ("a `co", "<p>a <code>co</code></p>"),
        ("see [this](https://exam", "<p>see this</p>"),
        ("5*3", "<p>5*3</p>"),
        ("a\n-", "<p>a</p>"),
        ("a\n\n| b | c |\n", "<p>a</p>"),
        ("a\n``", "<p>a</p>"),
    ],
)
def test_an_unfinished_end_does_not_flicker(blank_page: Page, text: str, shown: str) -> None:
    """What would look otherwise a moment later is not shown, or as what it is going to be."""
    assert blank_page.evaluate(SHOW_OPEN, [text, 1, True]) == shown


UNIT = (
    "## A heading\n\nSome **bold** words and `code`, with [a link](https://b.example) in it.\n\n"
    "- an item\n  - another one\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
    "```py\ndef f(x):\n    return 'x'\n```\n\n"
)


@pytest.mark.parametrize(
    "unit", [UNIT, "- item of one long list\n", "a word, **one** more; ", "x = f(1)  # code\n", "|1|2|\n"]
)
def test_the_cost_grows_with_the_text_and_not_its_square(blank_page: Page, unit: str) -> None:
    head = {"x": "```py\n", "|": "|a|b|\n|---|---|\n"}.get(unit[0], "")
    short = blank_page.evaluate(COUNT, head + unit * 100)
    long = blank_page.evaluate(COUNT, head + unit * 400)
    assert long < 8 * short


@pytest.mark.parametrize(
    "text",
    [
        "*a " * 5000,
        "[" * 20000,
        "[a](" * 5000,
        ">" * 5000,
        "- " * 5000 + "a",
        "**a " * 3000 + "b** " * 3000,
        "`" * 9999,
        "http://" * 5000,
        "<http://" * 5000,
        "|" * 20000 + "\n|-",
        "*" * 5000 + "a" + "*" * 5000,
    ],
    ids=lambda text: text[:8],
)
def test_hostile_text_is_shown_all_the_same(blank_page: Page, text: str) -> None:
    """Neither the stack nor the time is unbounded; the test's own time limit would tell."""
    html = show(blank_page, text, 500)
    depth = most = 0
    for close, void in re.findall(r"<(/?)(input|br|hr)?", html):
        depth += -1 if close else 0 if void else 1
        most = max(most, depth)
    assert 0 < most < 100


# What the page reads otherwise on purpose, and what a link to nowhere cannot be on it.
REFERENCE = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
REFERENCE.disable(["lheading", "code", "reference", "html_block", "html_inline"])
PAGES = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("name", PAGES)
def test_the_documents_of_this_project_look_as_markdown_it_shows_them(blank_page: Page, name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    text = re.sub(r"\]\((?!https?:)", "](https://b.example/", text)  # relative ones lead nowhere here
    assert outline(show(blank_page, text, 11)) == outline(REFERENCE.render(text))


class _Outline(HTMLParser):
    """Tags and words, without what differs by design: attributes, links, frames around code and tables."""

    IGNORED = frozenset({"a", "figure", "div", "span", "img", "tbody"})

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._items = 0
        self._caption = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._items += tag == "li"
        if tag == "img":
            self.parts.append(dict(attrs)["alt"])
        self._tag(tag, f"<{tag}>", True)

    def handle_endtag(self, tag: str) -> None:
        self._tag(tag, f"</{tag}>", False)
        self._items -= tag == "li"

    def handle_data(self, data: str) -> None:
        if not self._caption:
            self.parts.append(data)

    def _tag(self, tag: str, shown: str, opens: bool) -> None:
        if tag == "figcaption":
            self._caption = opens
        # A tight list has no paragraphs there and does here.
        elif tag == "br" or (tag == "p" and self._items):
            self.parts.append(" ")
        elif tag not in self.IGNORED:
            self.parts.append(shown)


def outline(html: str) -> str:
    parser = _Outline()
    parser.feed(html)
    text = re.sub(r"\s+", " ", "".join(parser.parts))
    return re.sub(r" ?(<[^>]*>) ?", r"\n\1", text)
