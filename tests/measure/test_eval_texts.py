"""Texts to measure over: files, shipped documents, and what is left of them under a limit."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sampan.measure.text import evaluation_texts, file_text, thinned
from sampan.measure.texts import shipped_documents

DOCUMENTS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=20), min_size=1, max_size=12)


def test_shipped_texts_know_domain_and_language() -> None:
    texts = {text.name: text for text in evaluation_texts()}
    assert texts["law.zh"].domain == "law"
    assert texts["law.zh"].language == "zh"
    assert texts["law.zh"].documents == shipped_documents("evaluation")["law.zh"]


def test_a_file_is_one_document_without_a_domain(tmp_path: Path) -> None:
    path = tmp_path / "law.zh"
    path.write_text("法\n", encoding="utf-8")
    text = file_text(path)
    assert text.documents == ("法\n",)
    assert text.domain is None
    assert text.language is None


@given(DOCUMENTS, st.integers(1, 60))
def test_documents_are_thinned_evenly(documents: list[list[int]], most: int) -> None:
    kept = thinned(documents, most)
    assert 1 <= sum(map(len, kept)) <= most
    if len(documents[0]) > most:
        assert kept == [documents[0][:most]]
        return
    every = next(n for n in range(1, len(documents) + 1) if documents[::n] == kept)
    fuller = documents[:: every - 1] if every > 1 else []
    assert every == 1 or sum(map(len, fuller)) > most


@given(DOCUMENTS)
def test_without_a_limit_all_is_kept(documents: list[list[int]]) -> None:
    assert thinned(documents, None) == documents
