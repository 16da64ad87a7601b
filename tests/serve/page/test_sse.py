"""Server-sent events, as the page reads them."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

READ = """async ([text, cut]) => {
    const { readEvents } = await import("/page/server/sse.js");
    const bytes = new TextEncoder().encode(text);
    let at = 0;
    const stream = new ReadableStream({
        pull(controller) {
            if (at >= bytes.length) return controller.close();
            controller.enqueue(bytes.slice(at, at += cut));
        },
    });
    const events = [];
    for await (const event of readEvents(stream)) events.push(event);
    return events;
}"""


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 1000])
def test_events_are_read_in_any_cut(blank_page: Page, cut: int) -> None:
    """Line ends of all three kinds, comments, other fields, several lines, and an event without an end."""
    stream = (
        ': hello\r\ndata: {"a": "\u4e2d\U0001f6f6"}\r\n\r\nevent: x\ndata:one\ndata: two\n\n'
        "id: 3\n\ndata\r\rdata: last\n\ndata: lost"
    )
    events = blank_page.evaluate(READ, [stream, cut])
    assert events == ['{"a": "\u4e2d\U0001f6f6"}', "one\ntwo", "", "last"]
