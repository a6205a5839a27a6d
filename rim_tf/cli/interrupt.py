"""Ctrl-C: it is noted even where a library swallows the exception, and what must be whole is finished first."""

import contextlib
import signal
import threading

_asked, _held = False, False


@contextlib.contextmanager
def watched():
    """Within the block Ctrl-C raises KeyboardInterrupt as ever, and is remembered until `check`."""
    global _asked
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual is not signal.default_int_handler:
        yield  # signals are another's business
        return
    signal.signal(signal.SIGINT, _remember)
    try:
        yield
        check()
    finally:
        signal.signal(signal.SIGINT, usual)
        _asked = False  # or the next block, were signals another's business there, would take it for its own


def check():
    """Raise KeyboardInterrupt where one was raised before and lost."""
    if _asked:
        raise KeyboardInterrupt


@contextlib.contextmanager
def held():
    """Within the block Ctrl-C waits for its end; one that was lost before is raised before it begins."""
    global _held
    check()
    _held = True
    try:
        yield
    finally:
        _held = False
    check()


def _remember(number, frame):
    global _asked
    _asked = True
    if not _held:
        raise KeyboardInterrupt
