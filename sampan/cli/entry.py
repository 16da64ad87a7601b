"""Where the `sampan` process begins."""

from __future__ import annotations

import signal


def main() -> None:
    """`app.main`; while that is still being imported, Ctrl-C ends the process without a traceback."""
    before = signal.getsignal(signal.SIGINT)
    # Whoever started this process with interrupts ignored, such as nohup, wants them ignored.
    catches = before is signal.default_int_handler
    if catches:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from sampan.cli import app

    if catches:
        signal.signal(signal.SIGINT, before)
    app.main()
