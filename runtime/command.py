"""How every command of the project ends: a sentence instead of a traceback, and the exit status Unix expects."""

from __future__ import annotations

import os
import sys
from typing import Callable

from runtime.errors import UserError


def run(main: Callable[[], int]) -> None:
    """Runs `main` and leaves the process with the status it returns, or with that of the error it ends with."""
    try:
        status = main()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = error.status
    except KeyboardInterrupt:
        print("\ninterrupted; finished files are whole, the one in work was not written", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # `... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains while closing stdout
        status = 141
    sys.exit(status)
