"""Bodies that are text: UTF-8, all of whose characters exist.

Python's JSON also reads UTF-16, and halves of surrogate pairs, written as they are or as escapes. No token,
answer or log can have these.
"""

from __future__ import annotations

import re

from sampan.errors import RequestError

# An escaped backslash and a whole pair stand here so that neither is taken for a half.
_ESCAPES = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


def check_unicode(body: bytes) -> None:
    """RequestError when a JSON text is not UTF-8, or has half of a surrogate pair."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise RequestError(
            f"the body is not UTF-8: byte {error.start} is {body[error.start]:#04x}"
        ) from error
    if b"\0" in body:
        raise RequestError(f"the body is not JSON in UTF-8: byte {body.index(0)} is 0")
    half = next((match[1] for match in _ESCAPES.finditer(body) if match[1]), None)
    if half is not None:
        raise RequestError(f"the body has half of a character: {half.decode()} without its other half")
