"""A person's way through a chat, in a browser, with the real server behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect
from pydantic import SecretStr

from sampan.serve.settings import ModelSettings
from tests.serve.live_server import LiveServer
from tests.serve.page.conftest import CONTEXT, Visit
from tests.serve.page.use import answers, bodies, expect_idle, limit, occupy, send
from tests.serve.page.wire import Wire


def test_a_message_is_answered_as_it_is_written(visit: Visit) -> None:
    page = visit()
    limit(page, 3000)
    sent = bodies(page)
    shown: list[int] = []
    page.expose_function("note", lambda length: shown.append(length))
    page.evaluate(
        """() => {
            const length = () => document.querySelector(".answer-text")?.textContent.length ?? 0;
            const messages = document.querySelector("#messages");
            const everything = { childList: true, subtree: true, characterData: true };
            new MutationObserver(() => note(length())).observe(messages, everything);
        }"""
    )
    send(page, "Hello\nthere")
    answer = answers(page)
    expect(answer).to_have_attribute("data-state", "done")
    assert sent == [
        {
            "model": "endless",
            "messages": [{"role": "user", "content": "Hello\nthere"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_completion_tokens": 3000,
        }
    ]
    assert len(set(shown)) > 2, "the answer did not grow"
    expect(page.locator(".question-text")).to_have_text("Hello\nthere")
    expect(answer.locator(".figures")).to_contain_text("3,000 tokens")
    expect(answer.locator(".figures")).to_contain_text("tokens/s")
    expect(answer.locator(".figures")).to_contain_text("s to first token")
    expect(answer.locator(".note")).to_have_text("The answer reached its limit of tokens.")
    expect(page.locator("#announcer")).to_have_text("Answer complete, 3,000 tokens")
    expect(page.locator("#message")).to_be_focused()


def test_the_next_message_goes_with_what_was_said(visit: Visit) -> None:
    page = visit()
    limit(page, 80)
    page.locator("#settings-button").click()
    page.locator("#system").fill("Be brief.")
    send(page, "One " * 40)
    expect(answers(page)).to_have_attribute("data-state", "done")
    sent = bodies(page)
    send(page, "Two")
    expect(answers(page)).to_have_count(2)
    expect(answers(page).last).to_have_attribute("data-state", "done")
    roles = [message["role"] for message in sent[0]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    # The prompts begin alike, so the server has read most of the second one before.
    expect(answers(page).last.locator(".figures")).to_contain_text("from cache")


def test_an_answer_can_be_stopped(visit: Visit, endless_server: LiveServer) -> None:
    page = visit()
    for stop in (lambda: page.locator("#send").click(), lambda: page.keyboard.press("Escape")):
        page.locator("#new-chat").click()
        send(page, "Go on")
        expect(answers(page)).to_have_attribute("data-state", "writing")
        expect(page.locator("#send")).to_have_accessible_name("Stop")
        stop()
        expect(answers(page)).to_have_attribute("data-state", "stopped")
        expect(answers(page).locator(".answer-text")).not_to_be_empty()
        expect(page.locator("#send")).to_have_accessible_name("Send")
        expect_idle(endless_server)


def test_an_answer_can_be_made_again(visit: Visit) -> None:
    page = visit()
    limit(page, 50)
    send(page, "Hello")
    expect(answers(page)).to_have_attribute("data-state", "done")
    first = answers(page).locator(".answer-text").text_content()
    sent = bodies(page)
    answers(page).get_by_role("button", name="Answer again").click()
    expect(answers(page).locator(".answer-text")).not_to_have_text(first or "")
    expect(answers(page)).to_have_attribute("data-state", "done")
    expect(answers(page)).to_have_count(1)
    assert [message["content"] for message in sent[0]["messages"]] == ["Hello"]


def test_a_message_can_be_changed(visit: Visit) -> None:
    page = visit()
    limit(page, 50)
    for words in ("One", "Two"):
        send(page, words)
        expect(answers(page).last).to_have_attribute("data-state", "done")
    question = page.locator(".question").first
    question.get_by_role("button", name="Edit").click()
    area = page.get_by_label("Edit your message")
    expect(area).to_be_focused()
    expect(area).to_have_value("One")
    area.press("Escape")
    expect(question.get_by_role("button", name="Edit")).to_be_focused()
    question.get_by_role("button", name="Edit").click()
    area.fill("Three")
    area.press("Enter")
    expect(page.locator(".question-text")).to_have_text(["Three"])
    expect(answers(page)).to_have_count(1)
    expect(answers(page)).to_have_attribute("data-state", "done")


def test_answers_can_be_copied(visit: Visit) -> None:
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    limit(page, 20)
    send(page, "Hello")
    expect(answers(page)).to_have_attribute("data-state", "done")
    page.locator(".question").hover()
    page.locator(".question").get_by_role("button", name="Copy").click()
    expect(page.locator("#announcer")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "Hello"


def test_two_chats_are_answered_at_once(visit: Visit, endless_server: LiveServer) -> None:
    page = visit()
    send(page, "First")
    expect(answers(page)).to_have_attribute("data-state", "writing")
    page.keyboard.press("Control+k")
    expect(answers(page)).to_have_count(0)
    send(page, "Second")
    expect(page.locator(".chat.running")).to_have_count(2)
    page.locator(".chat", has_text="First").click()
    expect(answers(page)).to_have_attribute("data-state", "writing")
    page.locator("#send").click()
    expect(answers(page)).to_have_attribute("data-state", "stopped")
    page.locator(".chat", has_text="Second").click()
    page.locator("#send").click()
    expect(page.locator(".chat.running")).to_have_count(0)
    expect_idle(endless_server)


def test_the_model_is_chosen_and_remembered(visit: Visit) -> None:
    page = visit()
    limit(page, 5)
    expect(page.locator("#model option")).to_have_text(["endless", "other"])
    page.locator("#model").select_option("other")
    page.reload()
    expect(page.locator("#model")).to_have_value("other")
    sent = bodies(page)
    send(page, "Hello")
    expect(answers(page)).to_have_attribute("data-state", "done")
    assert sent[0]["model"] == "other"


def test_the_servers_words_stand_at_the_parameter(visit: Visit) -> None:
    page = visit()
    page.locator("#settings-button").click()
    page.locator("#temperature").fill("7")
    page.locator("#seed").fill("3")
    sent = bodies(page)
    send(page, "Hello")
    problem = page.locator("#temperature-problem")
    expect(problem).to_contain_text("temperature")
    expect(page.locator("#temperature")).to_be_focused()
    expect(page.locator("#temperature")).to_have_attribute("aria-invalid", "true")
    expect(answers(page)).to_have_attribute("data-state", "failed")
    expect(answers(page).locator(".problem")).to_have_text(problem.text_content() or "")
    assert (sent[0]["temperature"], sent[0]["seed"]) == (7, 3)
    page.locator("#temperature").fill("")
    expect(problem).to_be_hidden()
    page.locator("#max_completion_tokens").fill("5")
    answers(page).get_by_role("button", name="Try again").click()
    expect(answers(page)).to_have_attribute("data-state", "done")
    page.get_by_role("button", name="Reset").click()
    expect(page.locator("#seed")).to_have_value("")


def test_a_dense_model_has_no_experts_to_choose(visit: Visit) -> None:
    page = visit()
    page.locator("#settings-button").click()
    page.get_by_text("For mixtures of experts").click()
    page.locator("#experts_per_token").fill("1")
    page.get_by_text("For mixtures of experts").click()
    send(page, "Hello")
    expect(answers(page)).to_have_attribute("data-state", "failed")
    expect(answers(page).locator(".problem")).to_contain_text("experts")


def test_a_lost_connection_keeps_what_arrived(visit: Visit, endless_server: LiveServer) -> None:
    with Wire(endless_server.url) as wire:
        page = visit(wire.url)
        send(page, "Go on")
        expect(answers(page)).to_have_attribute("data-state", "writing")
        wire.cut()
        expect(answers(page)).to_have_attribute("data-state", "lost")
        expect(answers(page).locator(".problem")).to_have_text(
            "The connection was lost. What arrived is kept."
        )
        kept = answers(page).locator(".answer-text").text_content()
        assert kept
        page.reload()
        page.locator(".chat").click()
        expect(answers(page).locator(".answer-text")).to_have_text(kept)
        expect_idle(endless_server)
        limit(page, 5)
        answers(page).get_by_role("button", name="Try again").click()
        expect(answers(page)).to_have_attribute("data-state", "done")


def test_what_arrived_before_the_page_was_left_is_kept(visit: Visit, endless_server: LiveServer) -> None:
    page = visit()
    send(page, "Go on")
    expect(answers(page).locator(".answer-text")).not_to_be_empty()
    page.reload()
    expect_idle(endless_server)
    page.locator(".chat").click()
    expect(answers(page)).to_have_attribute("data-state", "lost")
    expect(answers(page).locator(".answer-text")).not_to_be_empty()
    expect(answers(page).get_by_role("button", name="Try again")).to_be_enabled()


def test_a_server_that_is_gone(visit: Visit, endless_server: LiveServer) -> None:
    with Wire(endless_server.url) as wire:
        page = visit(wire.url)
    send(page, "Hello")
    expect(answers(page).locator(".problem")).to_have_text("The server cannot be reached.")


def test_a_busy_server_is_asked_again_when_it_said(
    visit: Visit, shared_home: Path, endless_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMPAN_HOME", str(shared_home))
    model = ModelSettings(reference=str(endless_folder), name="endless", sequences=1)
    with LiveServer(model, context=CONTEXT, max_waiting=1) as server:
        page = visit(server.url)
        limit(page, 5)
        others = [occupy(server) for _ in range(2)]
        send(page, "Hello")
        expect(answers(page).locator(".note")).to_contain_text("The server is busy. Trying again in")
        expect(page.locator("#send")).to_have_accessible_name("Stop")
        for connection in others:
            connection.close()
        expect_idle(server)
        page.get_by_role("button", name="Try now").click()
        expect(answers(page)).to_have_attribute("data-state", "done")


def test_a_key_is_asked_for_and_kept_for_the_tab(
    visit: Visit, shared_home: Path, endless_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMPAN_HOME", str(shared_home))
    model = ModelSettings(reference=str(endless_folder), name="endless")
    with LiveServer(model, context=CONTEXT, api_key=SecretStr("right")) as server:
        page = visit(server.url, wait=False)
        dialog = page.get_by_role("dialog")
        expect(dialog).to_have_accessible_name("This server asks for a key")
        expect(page.get_by_label("API key")).to_be_focused()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("The server refused that key.")
        page.keyboard.type("right")
        dialog.get_by_role("button", name="Continue").click()
        expect(page.locator("#model")).to_have_value("endless")
        limit(page, 5)
        send(page, "Hello")
        expect(answers(page)).to_have_attribute("data-state", "done")
        assert "right" not in json.dumps(page.evaluate("({ ...localStorage })"))
        page.reload()
        expect(page.locator("#model")).to_have_value("endless")
        page.locator("#settings-button").click()
        page.get_by_role("button", name="Forget the API key").click()
        page.reload()
        expect(dialog).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#notice")).to_contain_text("API key")
