"""For tests that send Ctrl-C to a command they start."""

import signal


def interruptible() -> None:
    """As `preexec_fn`: a shell's background job ignores SIGINT, and so would everything that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
