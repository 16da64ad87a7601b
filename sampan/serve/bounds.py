"""What the server's settings allow one request to ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sampan.errors import ParameterError

if TYPE_CHECKING:
    from sampan.serve.answer import AnswerRequest
    from sampan.serve.settings import ServeSettings


def check_bounds(asked: Sequence[AnswerRequest], settings: ServeSettings) -> None:
    """ParameterError when requests want more answers, or a larger grammar, than the settings allow."""
    choices = sum(request.n for request in asked)
    if choices > settings.max_choices:
        raise ParameterError(
            "n", f"{choices} answers are asked for, at most {settings.max_choices} are allowed (max_choices)"
        )
    for request in asked:
        if request.format is not None and len(request.format.source) > settings.max_grammar:
            where, size = request.format.where, len(request.format.source)
            most = settings.max_grammar
            raise ParameterError(
                where, f"{where}: it has {size} characters, at most {most} are allowed (max_grammar)"
            )
