"""The one kind of error that is the user's to mend; everything else that is raised is a bug of ours."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: the text says what is wrong, with which file, and what to do.

    Commands print it without a traceback and exit with `status`: 2 for wrong use, 1 (in subclasses) for work that was
    asked for rightly and failed.
    """

    status = 2


class ImageError(UserError):
    """This one image can't be used; the text names it and says why. Others of the same batch still can be."""
