"""Write the speed section of README.md and README.zh.md from the results in bench/results, and nothing else.

    python scripts/update_readme_figures.py [--check]

A result is the output of one command, stored under bench/results by what made it:

    python bench/peers.py --json > bench/results/NAME.peers.json
    sampan bench MODEL --json > bench/results/NAME.bench.json
    sampan eval MODEL --against float32 --text bench/text/mixed.txt --json > bench/results/NAME.eval.json
    python bench/greedy_agreement.py --json > bench/results/NAME.greedy.json
    python bench/serving.py --json > bench/results/NAME.serving.json
    python bench/gateway.py --json > bench/results/NAME.gateway.json

A NAME.dial.json, by bench/expert_dial.py, may lie beside them; no README quotes it.

`--check` writes nothing and fails when a README does not say what the results say.
"""

# ruff: noqa: RUF001 - Chinese punctuation is meant
from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from scripts.marked_section import MarkedSection  # noqa: E402

RESULTS = ROOT / "bench" / "results"
SECTION = MarkedSection("bench")

# How the names of the default model's results begin.
DEFAULT = "smollm2"

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Language:
    """The words around the figures."""

    readme: str
    nothing_yet: str
    peers: str
    missing: str
    busy: str
    bench: str
    measure: str
    rate: str
    share: str
    read_limit: str
    dot_limit: str
    limits: str
    start: str
    evaluation: str
    greedy: str
    decode: str
    prefill: str
    streams: str
    serving: str
    serving_ratio: str
    output: str
    first_token: str
    prefix: str
    later: str
    gaps: str
    swap: str
    gateway: str


ENGLISH = Language(
    readme="README.md",
    nothing_yet=(
        "No result has been recorded yet. `python bench/peers.py --json` makes one; "
        "see [measuring](docs/measuring.md)."
    ),
    peers=(
        "{model} on {cpu}, {threads} threads, tier {tier}. All engines read the same file and took turns "
        "in one run; tokens per second, and in brackets how many times as fast Sampan is."
    ),
    missing="{engine} could not be measured in this run.",
    busy="{row}, one core busy",
    bench="`sampan bench`, {name} on {cpu}, {threads} threads, tier {tier}:",
    measure="measure",
    rate="tokens per second",
    share="share of the machine's limit",
    read_limit="{share} of memory bandwidth",
    dot_limit="{share} of int8 operations",
    limits="Limits in the same run: {read} GB/s read, {dots} int8 GOPS.",
    start="A start takes {first} s to the first token; at most {memory} MB of memory were used.",
    evaluation=(
        "`sampan eval`, {model} against {against}, {tokens} tokens: KL divergence {mean} on average, "
        "{p99} at 99%, {p99_9} at 99.9%; the same likeliest token {same_top}; perplexity {ours}, "
        "the reference {theirs}."
    ),
    greedy=(
        "Greedy answers of {model} to {prompts} prompts, {tokens} tokens each, beside those of llama.cpp "
        "(xllamacpp {version}): {identical} are identical; on average the first {mean} tokens are. Where "
        "they part, the two tokens' logits in float32 are at most {gap} apart."
    ),
    decode="decode after {0} tokens",
    prefill="prefill of {0} tokens",
    streams="{0} streams, in all",
    serving=(
        "`sampan serve` beside llama.cpp's server: {model} on {cpu}, {threads} threads, the same file and "
        "{streams} slots, in turns in one run. The load is aiperf's, {input} tokens in and {output} out, "
        "arriving at random, more than either can take."
    ),
    serving_ratio="Sampan to llama.cpp",
    output="tokens per second under load",
    first_token="time to the first token under load, 95%",
    prefix="first token of a prompt of {tokens} tokens",
    later="the same, when only its end is new",
    gaps="gap between tokens while {tokens} tokens are read, to that without, 95%",
    swap="Of two models of which the memory holds one, a swap takes {load} s.",
    gateway=(
        "Over {streams} streams, `sampan serve` costs {share} of the speed of the engine called directly."
    ),
)

CHINESE = Language(
    readme="README.zh.md",
    nothing_yet=(
        "还没有记录任何结果。`python bench/peers.py --json` 可以测出一份，见[测量](docs/measuring.md)。"
    ),
    peers=(
        "{model}，{cpu}，{threads} 个线程，指令集层级 {tier}。各引擎读同一个文件，在同一次运行中轮流测量；"
        "单位为每秒 token 数，括号内是 Sampan 的倍数。"
    ),
    missing="{engine} 在这次运行中没能测量。",
    busy="{row}，另有一个核被占满",
    bench="`sampan bench`，{name}，{cpu}，{threads} 个线程，指令集层级 {tier}：",
    measure="项目",
    rate="每秒 token 数",
    share="占机器极限的比例",
    read_limit="内存带宽的 {share}",
    dot_limit="int8 运算的 {share}",
    limits="同一次运行测得的极限：读内存 {read} GB/s，int8 {dots} GOPS。",
    start="启动后 {first} 秒得到第一个 token；内存最多用了 {memory} MB。",
    evaluation=(
        "`sampan eval`，{model} 对照 {against}，{tokens} 个 token：KL 散度平均 {mean}，99% 分位 {p99}，"
        "99.9% 分位 {p99_9}；最可能的 token 相同的比例 {same_top}；困惑度 {ours}，参照为 {theirs}。"
    ),
    greedy=(
        "{model} 对 {prompts} 个提示词的贪心回答（每个 {tokens} 个 token），与 llama.cpp"
        "（xllamacpp {version}）对照：{identical} 个完全相同；平均前 {mean} 个 token 相同。"
        "分歧之处，两个 token 的 float32 logits 最多相差 {gap}。"
    ),
    decode="{0} 个 token 之后解码",
    prefill="预填 {0} 个 token",
    streams="{0} 路并发合计",
    serving=(
        "`sampan serve` 与 llama.cpp 的服务器对照：{model}，{cpu}，{threads} 个线程，同一个文件，"
        "各 {streams} 个槽位，同一次运行中轮流测量。负载由 aiperf 产生：输入 {input} 个 token，"
        "输出 {output} 个，随机到达，超过两者的处理能力。"
    ),
    serving_ratio="Sampan 与 llama.cpp 之比",
    output="负载下每秒 token 数",
    first_token="负载下第一个 token 的时间，95% 分位",
    prefix="{tokens} 个 token 的提示词，第一个 token 的时间",
    later="只有结尾是新内容时的同一时间",
    gaps="读入 {tokens} 个 token 期间的 token 间隔与平时之比，95% 分位",
    swap="两个模型而内存只容得下一个时，换一次需要 {load} 秒。",
    gateway="{streams} 路并发时，`sampan serve` 比直接调用引擎慢 {share}。",
)

LANGUAGES = (ENGLISH, CHINESE)
# The measures of bench/peers.py, and the field that has words for them.
ROWS = {
    r"decode after (\d+)": "decode",
    r"prefill of (\d+)": "prefill",
    r"(\d+) streams, in all": "streams",
}
BUSY = ", a core busy"


def section(results: Sequence[Path], language: Language) -> str:
    """What a README says between its marks, from result files in the order given."""
    parts = [
        write(json.loads(path.read_text(encoding="utf-8")), path.name.partition(".")[0], language)
        for kind, write in _WRITERS.items()
        for path in results
        if path.name.endswith(f".{kind}.json")
    ]
    return "\n\n".join(parts) or language.nothing_yet


def result_files(folder: Path = RESULTS) -> list[Path]:
    """The results, the default model's first. ValueError for a file whose name does not say what it is."""
    files = sorted(folder.glob("*.json"), key=lambda path: (not path.name.startswith(DEFAULT), path.name))
    for path in files:
        if path.name.split(".")[-2] not in (*_WRITERS, *_NOT_QUOTED):
            kinds = ", ".join(f"NAME.{kind}.json" for kind in (*_WRITERS, *_NOT_QUOTED))
            raise ValueError(f"{path} is none of {kinds}")
    return files


def _peers(report: Report, _name: str, language: Language) -> str:
    machine, engines = report["machine"], report["engines"]
    lines = [
        language.peers.format(
            model=report["model"],
            cpu=machine["cpu"],
            threads=machine["threads"],
            tier=engines["sampan"]["tier"],
        ),
        "",
        _table_row([language.measure, *(f"{name} {about['version']}" for name, about in engines.items())]),
        _table_rule(1 + len(engines)),
    ]
    for row, rates in report["tok_s"].items():
        cells = [_row_name(row, language)]
        for name in engines:
            ratio = f" ({report['ratio'][row][name]:.1f}x)" if name != "sampan" else ""
            cells.append(_number(rates[name]) + ratio)
        lines.append(_table_row(cells))
    for name in report["missing"]:
        lines += ["", language.missing.format(engine=name)]
    return "\n".join(lines)


def _bench(report: Report, name: str, language: Language) -> str:
    machine, prefill, start = report["machine"], report["prefill"], report["start"]
    rows = [
        (language.decode.format(row["context"]), row["tok_s"], language.read_limit, row["roofline"])
        for row in report["decode"]
    ]
    rows.append(
        (
            language.prefill.format(prefill["tokens"]),
            prefill["tok_s"],
            language.dot_limit,
            prefill["roofline"],
        )
    )
    lines = [
        language.bench.format(name=name, **{key: machine[key] for key in ("cpu", "threads", "tier")}),
        "",
        _table_row([language.measure, language.rate, language.share]),
        _table_rule(3),
        *(_table_row([what, _number(rate), limit.format(share=f"{x:.0%}")]) for what, rate, limit, x in rows),
        *(
            _table_row([language.streams.format(row["streams"]), _number(row["tok_s"]), ""])
            for row in report["batch"]
        ),
        "",
        language.limits.format(read=_number(machine["read_gb_s"]), dots=_number(machine["int8_gops"])),
        language.start.format(
            first=f"{start['first_token_s']:.2f}", memory=f"{report['peak_rss_bytes'] / 1e6:.0f}"
        ),
    ]
    return "\n".join(lines)


def _evaluation(report: Report, _name: str, language: Language) -> str:
    kl, perplexity = report["kl"], report["perplexity"]
    return language.evaluation.format(
        model=report["model"],
        against=report["against"],
        tokens=report["tokens"],
        mean=f"{kl['mean']:.5f}",
        p99=f"{kl['p99']:.5f}",
        p99_9=f"{kl['p99_9']:.5f}",
        same_top=f"{report['same_top']:.2%}",
        ours=f"{perplexity['model']:.3f}",
        theirs=f"{perplexity['against']:.3f}",
    )


def _greedy(report: Report, _name: str, language: Language) -> str:
    return language.greedy.format(
        model=report["model"],
        prompts=len(report["prompts"]),
        tokens=report["tokens_each"],
        version=report["xllamacpp"],
        identical=report["identical"],
        mean=f"{report['mean_first_divergence']:.0f}",
        gap=f"{report['largest_float32_gap']:.2f}",
    )


def _serving(report: Report, _name: str, language: Language) -> str:
    machine, asked, parts = report["machine"], report["load_asked"], report["parts"]
    servers = list(parts["prefix"])
    rows: list[tuple[str, str, dict[str, float]]] = []
    if "load" in parts:
        rows.append((language.output, "{:,.0f}", _figures(parts["load"], "output_tok_s")))
        rows.append((language.first_token, "{:.2f} s", _figures(parts["load"], "first_token_p95_s")))
    prefix, gaps = parts["prefix"], parts["long_prompt"]
    rows.append(
        (language.prefix.format(tokens=asked["prefix"]), "{:.3f} s", _figures(prefix, "first_s")),
    )
    rows.append((language.later, "{:.3f} s", _figures(prefix, "later_s")))
    slower = {name: row["beside_p95_s"] / row["alone_p95_s"] for name, row in gaps.items()}
    rows.append((language.gaps.format(tokens=f"{asked['long_prompt']:,}"), "{:.1f}x", slower))
    lines = [
        language.serving.format(
            model=report["model"],
            cpu=machine["cpu"],
            threads=machine["threads"],
            **{key: asked[key] for key in ("streams", "input", "output")},
        ),
        "",
        _table_row([language.measure, *servers, language.serving_ratio]),
        _table_rule(2 + len(servers)),
    ]
    for what, form, figures in rows:
        ratio = f"{figures['sampan'] / figures['llama.cpp']:.2f}" if "llama.cpp" in figures else ""
        lines.append(_table_row([what, *(form.format(figures[name]) for name in servers), ratio]))
    lines += ["", language.swap.format(load=f"{parts['swap']['sampan']['load_s']:.3f}")]
    return "\n".join(lines)


def _figures(by_server: Mapping[str, Mapping[str, float]], name: str) -> dict[str, float]:
    return {server: row[name] for server, row in by_server.items()}


def _gateway(report: Report, _name: str, language: Language) -> str:
    return language.gateway.format(share=f"{report['overhead']:.1%}", streams=report["streams"])


_WRITERS: dict[str, Callable[[Report, str, Language], str]] = {
    "peers": _peers,
    "bench": _bench,
    "eval": _evaluation,
    "greedy": _greedy,
    "serving": _serving,
    "gateway": _gateway,
}
_NOT_QUOTED = ("dial", "quality", "rounding", "allocation")


def _row_name(row: str, language: Language) -> str:
    busy = row.endswith(BUSY)
    for pattern, field in ROWS.items():
        match = re.fullmatch(pattern, row.removesuffix(BUSY))
        if match is not None:
            name = str(getattr(language, field)).format(*match.groups())
            return language.busy.format(row=name) if busy else name
    raise ValueError(f"bench/peers.py has a measure {row!r} that this script has no words for")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _table_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table_rule(columns: int) -> str:
    return "|" + "---|" * columns


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a README is stale")
    check = parser.parse_args().check
    results = result_files()
    stale = 0
    for language in LANGUAGES:
        path = ROOT / language.readme
        before = path.read_text(encoding="utf-8")
        after = SECTION.replaced(before, section(results, language))
        if before == after:
            continue
        stale += 1
        if check:
            print(f"{path.name} does not say what bench/results says", file=sys.stderr)
        else:
            path.write_text(after, encoding="utf-8")
            print(f"wrote {path.name} from {len(results)} results")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
