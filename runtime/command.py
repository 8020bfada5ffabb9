"""How every command of the project ends: a sentence instead of a traceback, and the exit status Unix expects."""

from __future__ import annotations

import errno
import os
import sys
from typing import Callable

from runtime.errors import UserError


def run(main: Callable[[], int]) -> None:
    """Runs `main` and leaves the process with the status it returns, or with that of the error it ends with."""
    if hasattr(sys.stdout, "reconfigure"):  # a letter that the terminal's encoding lacks is escaped, as stderr does it
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = main()
        sys.stdout.flush()
    except UserError as error:
        print("error: " + "\n".join(map(printable, str(error).split("\n"))), file=sys.stderr)
        status = error.status
    except KeyboardInterrupt:
        print("\ninterrupted; no file was left half written", file=sys.stderr)
        status = 130
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains while closing stdout
        status = 141  # `... | head` has seen enough
        if error.errno == errno.ENOSPC:
            print(f"error: the output can't be written: {error.strerror}.", file=sys.stderr)
            status = 1
    sys.exit(status)


def printable(text: str) -> str:
    """`text` with everything that could steer a terminal, or break a line, shown as an escape instead."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
