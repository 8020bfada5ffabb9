"""python make_variables.py GOALS GIVEN SETTINGS RENAMED: a sentence for make if none of the GOALS takes one of the variables
GIVEN.

A target takes the variables that its help line in the Makefile names ("NAME="), and export's SETTINGS where the line says
"[export's]". RENAMED ("OLD=NEW ...") are old names, as good as the new ones. The Makefile runs this with any Python, before
there is an environment.
"""

import difflib
import re
import sys
from pathlib import Path

HELP = re.compile(r"^([a-z0-9-]+):.*?## (.*)$", re.MULTILINE)
ALWAYS = {"PYTHON", "EFFICIENTNET_TEST_DATA"}


def taken_by(makefile, settings, renamed):
    """What each target with a help line takes: name -> set of variables."""
    taken = {}
    for target, text in HELP.findall(makefile):
        taken[target] = ALWAYS | set(re.findall(r"\b([A-Z][A-Z0-9_]*)=", text))
        if "[export's]" in text:
            taken[target] |= settings
        taken[target] |= {old for old, new in renamed.items() if new in taken[target]}
    return taken


def mistake(goals, given, taken, hidden=()):
    """The sentence, or "" if each of `given` is taken by one of `goals`. A goal without a help line takes any known one.
    `hidden`: old names, which it does not show."""
    known = set().union(*taken.values())
    fitting = set().union(*(taken.get(goal, known) for goal in goals))
    shown = fitting - ALWAYS - set(hidden)
    for name in given:
        if name in fitting:
            continue
        if name in known:
            said = f"make {' '.join(goals)} does not take {name}."
        else:
            near = difflib.get_close_matches(name, sorted(shown), 1) or difflib.get_close_matches(
                name, known - set(hidden), 1
            )
            said = f"There is no variable {name}{', did you mean ' + near[0] + '?' if near else '.'}"
        return f"{said} make {' '.join(goals)} takes {', '.join(sorted(shown)) or 'none'}"
    return ""


if __name__ == "__main__":
    goals, given, settings, renamed = (words.split() for words in sys.argv[1:])
    makefile = Path(__file__).with_name("Makefile").read_text(encoding="utf-8")
    old = dict(pair.split("=") for pair in renamed)
    print(mistake(goals or ["help"], given, taken_by(makefile, set(settings), old), old))
