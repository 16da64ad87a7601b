"""How the page looks and is used: languages, themes, sizes, keys, chats kept, the live view."""

from __future__ import annotations

import re
import threading

import pytest
from playwright.sync_api import Page, expect

from tests.serve.http_client import post
from tests.serve.live_server import LiveServer
from tests.serve.page.conftest import Visit
from tests.serve.page.use import answers, bodies, expect_idle, limit, send


def background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body.parentNode).backgroundColor"))


def overflow(page: Page) -> int:
    """By how many pixels the document, or a message in it, is wider than the window."""
    return int(
        page.evaluate(
            """() => {
                const nodes = document.querySelectorAll("html, .thread, .message, .foot");
                const right = (node) => Math.max(node.scrollWidth, node.getBoundingClientRect().right);
                return Math.max(...[...nodes].map(right)) - innerWidth;
            }"""
        )
    )


def test_chinese_by_the_browsers_language(visit: Visit) -> None:
    page = visit(locale="zh-CN")
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.get_by_role("heading", level=1)).to_have_text("轻舟已过万重山")
    expect(page.get_by_label("你的消息")).to_have_attribute("placeholder", "写点什么")
    limit(page, 20)
    send(page, "你好")
    expect(answers(page).locator(".figures")).to_contain_text("20 个词元")
    page.get_by_role("button", name="English").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(answers(page).locator(".figures")).to_contain_text("20 tokens")
    page.reload()
    expect(page.get_by_label("Your message")).to_be_visible()


@pytest.mark.parametrize("locale", ["en-US", "zh-TW", "de-DE"])
def test_other_languages_read_one_of_the_two(visit: Visit, locale: str) -> None:
    page = visit(locale=locale)
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN" if locale.startswith("zh") else "en")


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_no_text_is_missing(visit: Visit, locale: str) -> None:
    """Every control has a name, and no hole in a text was left."""
    page = visit(locale=locale)
    limit(page, 5)
    send(page, "x")
    expect(answers(page)).to_have_attribute("data-state", "done")
    for button in ("#live-button", "#settings-button"):
        page.locator(button).click()
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("button, input, select, textarea")]
                .filter((node) => node.checkVisibility())
                .filter((node) => !(node.ariaLabel || node.textContent.trim() || node.labels?.length))
                .map((node) => node.outerHTML)"""
        )
        assert nameless == []
    assert not re.search(r"\{\w+\}|undefined|NaN", page.locator("body").inner_text())


def test_dark_as_the_system_says_and_as_chosen(visit: Visit) -> None:
    page = visit(color_scheme="light")
    light = background(page)
    page.emulate_media(color_scheme="dark")
    dark = background(page)
    assert light != dark
    page.get_by_role("button", name="Colours: as the system").click()
    assert background(page) == light
    page.reload()
    assert background(page) == light
    page.get_by_role("button", name="Colours: light").click()
    page.emulate_media(color_scheme="light")
    assert background(page) == dark
    page.get_by_role("button", name="Colours: dark").click()
    assert background(page) == light


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(visit: Visit, scheme: str) -> None:
    """Contrast of WCAG 2.2, level AA, for the colours that text has on those that lie behind it."""
    page = visit(color_scheme=scheme)
    colours = page.evaluate(
        """() => {
            const probe = document.body.appendChild(document.createElement("i"));
            const names = "ink ink-soft ink-faint water seal paper shore raised tint".split(" ");
            return Object.fromEntries(names.map((name) => {
                probe.style.color = `var(--${name})`;
                return [name, getComputedStyle(probe).color.match(/[0-9.]+/g).map(Number)];
            }));
        }"""
    )
    for text in ("ink", "ink-soft", "ink-faint", "water", "seal"):
        for behind in ("paper", "shore", "raised"):
            assert contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
    assert contrast(colours["ink"], colours["tint"]) >= 7


def contrast(one: list[float], other: list[float]) -> float:
    """Of two colours in sRGB, as WCAG 2.2 defines it."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: list[float]) -> float:
    parts = [part / 255 for part in colour[:3]]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_a_phone_shows_all_of_it(visit: Visit, locale: str) -> None:
    page = visit(locale=locale, viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    assert overflow(page) <= 0
    expect(page.locator("#sidebar")).to_be_hidden()
    page.locator("#settings-button").click()
    page.locator("#max_completion_tokens").fill("200")
    assert overflow(page) <= 0
    page.keyboard.press("Escape")
    expect(page.locator("#panel")).to_be_hidden()
    expect(page.locator("#settings-button")).to_be_focused()
    send(page, "A long word: " + "x" * 300)
    expect(answers(page)).to_have_attribute("data-state", "done")
    assert overflow(page) <= 0
    page.locator("#menu-button").click()
    expect(page.locator("#new-chat")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#sidebar")).to_be_hidden()
    expect(page.locator("#menu-button")).to_be_focused()
    page.locator("#menu-button").click()
    page.locator(".chat").click()
    expect(page.locator("#sidebar")).to_be_hidden()
    page.locator("#live-button").click()
    expect(page.locator("#panel")).to_be_visible()
    assert overflow(page) <= 0


def test_keys(visit: Visit) -> None:
    page = visit()
    limit(page, 5)
    message = page.locator("#message")
    message.focus()
    page.keyboard.type("One")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(message).to_have_value("One\ntwo")
    page.keyboard.press("Enter")
    expect(page.locator(".question-text")).to_have_text("One\ntwo")
    expect(answers(page)).to_have_attribute("data-state", "done")
    page.locator("#live-button").focus()
    page.keyboard.press("Control+k")
    expect(message).to_be_focused()
    expect(page.locator("#welcome")).to_be_visible()
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_count(0)
    for _ in range(40):
        page.keyboard.press("Tab")
        # The message's own is at the frame around it.
        focused = page.evaluate(
            """() => {
                const node = document.activeElement;
                return node === document.body || node.id === "message"
                    || getComputedStyle(node).outlineStyle !== "none";
            }"""
        )
        assert focused, "the focus cannot be seen"


def test_enter_belongs_to_the_input_method_while_it_composes(visit: Visit) -> None:
    page = visit(locale="zh-CN")
    limit(page, 5)
    page.locator("#message").focus()
    session = page.context.new_cdp_session(page)
    session.send("Input.imeSetComposition", {"text": "nihao", "selectionStart": 5, "selectionEnd": 5})
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_count(0)
    session.send("Input.insertText", {"text": "你好"})
    page.keyboard.press("Enter")
    expect(page.locator(".question-text")).to_have_text("你好")


def test_chats_are_kept_and_can_be_deleted(visit: Visit) -> None:
    page = visit()
    limit(page, 5)
    for words in ("First chat", "Second chat"):
        page.locator("#new-chat").click()
        send(page, words)
        expect(answers(page)).to_have_attribute("data-state", "done")
    page.reload()
    expect(page.locator(".chat")).to_have_text(["Second chat", "First chat"])
    page.locator(".chat", has_text="First chat").click()
    expect(page.locator(".question-text")).to_have_text("First chat")
    expect(answers(page).locator(".figures")).to_contain_text("5 tokens")
    page.get_by_role("button", name="Delete “First chat”").click()
    expect(page.locator(".chat")).to_have_text(["Second chat"])
    expect(page.locator(".chat")).to_be_focused()
    expect(page.locator("#welcome")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".chat")).to_have_text(["Second chat", "First chat"])
    page.locator("#settings-button").click()
    page.get_by_role("button", name="Delete all chats").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(page.locator(".chat")).to_have_count(2)
    page.get_by_role("button", name="Delete all chats").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".chat")).to_have_count(0)
    page.reload()
    expect(page.locator("#chats")).to_contain_text("Chats are kept in this browser.")
    assert [key for key in page.evaluate("Object.keys(localStorage)") if key.startswith("sampan.chat.")] == []


def test_chats_are_kept_within_bounds(blank_page: Page) -> None:
    """In number and in size; the oldest go first, and what is kept is what is listed."""
    kept = blank_page.evaluate(
        """async () => {
            localStorage.clear();
            const module = await import("/page/chat/conversations.js");
            const { Conversations, MOST_CHATS, MOST_CHARACTERS } = module;
            const conversations = new Conversations();
            const add = (content) => {
                const chat = conversations.create();
                chat.messages.push({ role: "user", content });
                conversations.save(chat);
            };
            for (let count = 0; count < MOST_CHATS + 5; count += 1) add(`small ${count}`);
            const small = conversations.list().length;
            for (let count = 0; count < 10; count += 1) add(`${count}`.repeat(MOST_CHARACTERS / 4));
            const titles = conversations.list().map(({ title }) => title[0]);
            const entries = Object.keys(localStorage).filter((key) => key.startsWith("sampan.chat.")).length;
            localStorage.clear();
            return { small, most: MOST_CHATS, titles, entries };
        }"""
    )
    assert kept["small"] == kept["most"]
    assert kept["titles"] == ["9", "8", "7"]
    assert kept["entries"] == 3


def test_what_the_browser_kept_may_be_anything(visit: Visit) -> None:
    page = visit()
    page.evaluate(
        """() => {
            localStorage.setItem("sampan.chats", '[{"id": "a", "title": "broken"}, null, 3]');
            localStorage.setItem("sampan.chat.a", "{");
            for (const key of ["language", "theme", "panel", "model", "parameters"]) {
                localStorage.setItem(`sampan.${key}`, '{"temperature": "hot"}');
            }
        }"""
    )
    page.reload()
    page.locator(".chat").click()
    sent = bodies(page)
    limit(page, 5)
    send(page, "Hello")
    expect(answers(page)).to_have_attribute("data-state", "done")
    assert "temperature" not in sent[0]


def test_the_live_view(visit: Visit, endless_server: LiveServer) -> None:
    page = visit()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(1500)
    assert not [url for url in asked if url.endswith("/v1/status")], "asked while nobody looks"
    page.locator("#live-button").click()
    live = page.locator("#live-view")
    body = {"model": "endless", "messages": [{"role": "user", "content": "x"}], "max_tokens": 4000}
    others = [
        threading.Thread(target=post, args=(endless_server.url + "/v1/chat/completions", body))
        for _ in range(3)
    ]
    for thread in others:
        thread.start()
    written = live.locator(".card", has_text="Tokens written").locator("strong")
    expect(written).to_have_text(re.compile(r"[1-9]"))
    expect(live.locator(".memory .hint")).to_have_text(re.compile(r"% held by answers, .*% kept for reuse"))
    expect(live.locator(".resident")).to_contain_text("endless")
    expect(live.locator(".card .spark-line").first).to_have_attribute("d", re.compile("L"))
    for thread in others:
        thread.join()
    expect_idle(endless_server)
    expect(live.locator(".card", has_text="Running").locator("strong")).to_have_text("0")
    page.locator("#panel-close").click()
    expect(page.locator("#live-button")).to_be_focused()
    asked.clear()
    page.wait_for_timeout(1500)
    assert not [url for url in asked if url.endswith("/v1/status")]


def test_reasoning_is_folded_and_calls_are_shown(blank_page: Page) -> None:
    """Of an answer as chat.js makes it; the tests' model writes neither."""
    shown = blank_page.evaluate(
        """async () => {
            const { AnswerView } = await import("/page/chat/messages.js");
            const answer = {
                role: "assistant", model: "m", state: "done", content: "So.", reasoning: "Let me *see*",
                tools: [{ name: "look", arguments: '{"where":"<b>"}' }], end: "tool_calls", figures: null,
            };
            const view = new AnswerView(answer, {});
            view.update();
            const reasoning = view.element.querySelector(".reasoning");
            return {
                isOpen: reasoning.open,
                isHidden: reasoning.hidden,
                reasoning: reasoning.querySelector(".reasoning-text").innerHTML,
                call: view.element.querySelector(".tool-calls").textContent,
            };
        }"""
    )
    assert shown == {
        "isOpen": False,
        "isHidden": False,
        "reasoning": "<p>Let me <em>see</em></p>",
        "call": 'Calls look{\n  "where": "<b>"\n}',
    }


def test_motion_is_reduced_for_those_who_ask(visit: Visit) -> None:
    page = visit(reduced_motion="reduce")
    assert page.evaluate("document.getAnimations().length") == 0
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate("document.getAnimations().length") > 0
