"""What the READMEs and docs/ say: examples run, links lead somewhere, tables match the code."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer

import sampan
from sampan.cli.app import app
from sampan.engine.options import SamplingOptions
from sampan.formats import MATRIX_FORMATS
from sampan.hub.reference import DEFAULT_REFERENCE
from sampan.kernels.tiers import TIERS
from sampan.models.registry import FAMILIES
from sampan.weights.source import SUPPORTED_TYPES
from tests.cli.cli_runner import run_here

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README.zh.md")
# Its examples need a server: tests/serve/test_api_docs.py runs them.
SERVED = ("docs/api.md",)
PAGES = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[tuple[int, str]]:
    """(line number, content) of each fenced block in one language."""
    return [
        (text.count("\n", 0, match.start(1)), match.group(1))
        for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def code_spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", without_blocks(text))


def table(text: str, heading: str) -> list[list[str]]:
    """Cells of the first table after `heading`, without its two head lines."""
    lines = text[text.index(heading) :].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def commands() -> dict[str, Any]:
    """The subcommands by name; typer brings click classes of its own."""
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


@pytest.mark.parametrize(
    "name", [name for name in PAGES if blocks(page(name), "python") and name not in SERVED]
)
def test_python_examples_run(
    name: str,
    shared_home: Path,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All blocks of a page, in order, in one namespace, beside a model in the folder `my-model`.

    A traceback shows the page's own lines.
    """
    found = blocks(page(name), "python")
    if any("sampan.load()" in code for _, code in found):
        from sampan.hub import catalogue

        if catalogue.find(DEFAULT_REFERENCE) is None:
            pytest.skip(f"{name} uses the default model, {DEFAULT_REFERENCE}, which is not in the cache")
    else:
        monkeypatch.setenv("SAMPAN_HOME", str(shared_home))
    (tmp_path / "my-model").symlink_to(tiny_folder)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for line, code in found:
        exec(compile("\n" * line + code, ROOT / name, "exec"), names)
    assert capsys.readouterr().out.strip()


def sampan_lines(name: str) -> list[list[str]]:
    """The arguments of every `sampan` command line in a page's shell blocks."""
    lines = []
    for _, code in blocks(page(name), "sh"):
        for part in re.split(r"\n|&&|\|", code):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words[:1] == ["sampan"]:
                lines.append(words[1 : words.index(">") if ">" in words else None])
    return lines


@pytest.mark.parametrize("name", [name for name in PAGES if sampan_lines(name)])
def test_command_lines_in_shell_blocks_are_understood(name: str) -> None:
    for words in sampan_lines(name):
        commands()[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["list"], *([c, "--help"] for c in ("run", "eval"))]
)
def test_commands_that_need_no_model(arguments: list[str], shared_home: Path) -> None:
    assert run_here(shared_home, *arguments).returncode == 0


@pytest.mark.parametrize("readme", READMES)
def test_the_command_table_has_every_command(readme: str) -> None:
    shown = re.findall(r"^\| `sampan ([a-z]+)[^|]*` \|", page(readme), re.MULTILINE)
    assert shown == list(commands())


@pytest.mark.parametrize("readme", READMES)
def test_the_option_table_is_that_of_the_help(readme: str, shared_home: Path) -> None:
    help_text = run_here(shared_home, "run", "--help").stdout
    offered = re.findall(r"^ +(--[a-z-]+)", help_text, re.MULTILINE)
    shown = re.findall(r"^\| `(--[a-z-]+)` \|", page(readme), re.MULTILINE)
    assert [*shown, "--help"] == offered


def test_options_in_python() -> None:
    defaults = SamplingOptions()
    shown = {row[0].strip("`"): row[1] for row in table(page("docs/python.md"), "Options, for `generate`")}
    assert shown == {name: str(getattr(defaults, name)) for name in SamplingOptions.__dataclass_fields__}
    arguments = [row[0].strip("`") for row in table(page("docs/python.md"), "`sampan.load(reference")]
    assert arguments == list(inspect.signature(sampan.load).parameters)


@pytest.mark.parametrize("name", [*READMES, "docs/models.md"])
def test_families_and_types_are_those_of_the_code(name: str) -> None:
    text = page(name)
    heading = "## Families" if name.startswith("docs") else "`model_type` |"
    rows = table(text, heading) if name.startswith("docs") else table(text[text.index(heading) - 200 :], "|")
    assert [row[1].strip("`") for row in rows] == [family.gguf_architecture for family in FAMILIES]
    shown = [set(re.findall(r"`([^`]+)`", row[2])) for row in rows]
    assert shown == [set(family.huggingface_types) for family in FAMILIES]
    assert all(re.search(rf"\b{kind}\b", text) for kind in SUPPORTED_TYPES)


def test_every_kernel_file_is_explained() -> None:
    named = {
        name for row in table(page("docs/kernels.md"), "| file in") for name in re.findall(r"`(.+?)`", row[0])
    }
    folder = ROOT / "sampan" / "kernels"
    parts = {path.name for path in folder.glob("*.py")} | {
        f"{path.parent.name}/" for path in folder.glob("*/*.py")
    }
    assert named == parts - {"__init__.py"}


def test_tiers_and_formats_are_those_of_the_code() -> None:
    text = page("docs/kernels.md")
    assert {row[0].strip("`") for row in table(text, "## Tiers")} == set(TIERS)
    shown = [
        (row[0].strip("`"), int(row[2]), int(row[3]), float(row[4])) for row in table(text, "## Weights")
    ]
    assert shown == [
        (form.name, form.group_columns, form.record_bytes, form.bits_per_weight)
        for form in MATRIX_FORMATS.values()
    ]


def anchors(text: str) -> set[str]:
    """The fragments that a page's headings can be linked by."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(page(name))):
        if re.match(r"https?://", target):
            continue
        path, _, fragment = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f"{name} links to {target}"
        if fragment:
            assert fragment in anchors(file.read_text(encoding="utf-8")), f"{name} links to {target}"


@pytest.mark.parametrize("name", PAGES)
def test_files_that_are_named_exist(name: str) -> None:
    places = [ROOT, ROOT / "sampan", ROOT / "sampan" / "kernels"]
    for span in code_spans(page(name)):
        path = span.replace("NAME", "llama")
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)*\.(py|txt)|(sampan|tests|scripts|bench|docs)/[\w./-]+", path):
            assert any((place / path).exists() for place in places), f"{name} names {span}"


def test_the_chinese_readme_says_the_same() -> None:
    english, chinese = page(READMES[0]), page(READMES[1])
    levels = [re.findall(r"^#+(?= )", without_blocks(text), re.MULTILINE) for text in (english, chinese)]
    assert levels[0] == levels[1]
    for language in ("sh", "python"):
        assert [code for _, code in blocks(english, language)] == [
            code for _, code in blocks(chinese, language)
        ]
    assert english.count("\n|") == chinese.count("\n|")
    assert set(code_spans(english)) <= set(code_spans(chinese))
    prose = [re.sub(r"`[^`\n]+`", "", without_blocks(text)) for text in (english, chinese)]
    numbers = [Counter(re.findall(r"\d+(?:[.,]\d+)*", text)) for text in prose]
    assert numbers[0] == numbers[1]


def test_imports_point_down_the_list_of_folders() -> None:
    (tree,) = [code for _, code in blocks(page("docs/architecture.md"), "") if code.startswith("sampan/")]
    order = [line.split()[0].rstrip("/").removesuffix(".py") for line in tree.splitlines()[1:]]
    present = {path.stem for path in (ROOT / "sampan").iterdir() if not path.name.startswith("_")}
    assert set(order) == present
    for path in (ROOT / "sampan").rglob("*.py"):
        own = path.relative_to(ROOT / "sampan").parts[0].removesuffix(".py")
        if own.startswith("_"):
            continue
        for module in _imported(path):
            other = module.split(".")[1] if "." in module else "api"
            assert order.index(other) >= order.index(own), f"{path} imports {module}"


def _imported(path: Path) -> set[str]:
    """Modules of Sampan that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            nested = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= nested if node.module == "sampan" else {node.module}
    return {name for name in found if name.split(".")[0] == "sampan"}
