"""One name for the commands of a device: efficientnet-edge infer image.jpg (in a checkout: python -m runtime infer image.jpg)"""

from __future__ import annotations

import importlib
import sys
from typing import Callable, Dict, List, Optional, Sequence

from . import __version__
from .command import run
from .errors import UserError
from .invocation import CHECKOUT, PACKAGE, SCRIPT

COMMANDS: Dict[str, str] = {
    "infer": "classify images",
    "watch": "classify what a camera, a video or a folder gives",
    "serve": "a live page and an HTTP endpoint",
    "engine": "build a TensorRT engine for this GPU",
    "embed": "a vector for each image, and the nearest of one",
    "evaluate": "accuracy on labelled images",
    "bench": "latency by stage",
    "sweep": "latency versus accuracy of several networks",
    "advise": "which network to deploy here, by your own images",
    "artifacts": "the networks that are there, and what is known of them",
    "doctor": "what works here, and what is missing for what",
}
PACKAGES_OF_COMMANDS = {"serve", "sweep", "artifacts"}  # their main is in __main__.py


def main(argv: Optional[Sequence[str]] = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments.pop(0) if arguments else "--help"
    if name in ("-V", "--version") or arguments in (["-V"], ["--version"]):
        print(f"{SCRIPT} {__version__}")
        return 0
    if name in ("-h", "--help", "help"):
        print(_help())
        return 0
    if name == "completion":
        print(_completion(arguments))
        return 0
    if name not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, 1)
        raise UserError(f"There is no command '{name}'{f', perhaps {near[0]}' if near else ''}: --help lists them.")
    return _main_of(name)(arguments)


def _main_of(name: str) -> Callable[[Sequence[str]], int]:
    place = f"{PACKAGE}.{name}.__main__" if name in PACKAGES_OF_COMMANDS else f"{PACKAGE}.{name}"
    main: Callable[[Sequence[str]], int] = importlib.import_module(place).main
    return main


def _help() -> str:
    called = f"python -m {PACKAGE}" if CHECKOUT else SCRIPT
    rows = "\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items())
    return (
        f"usage: {called} COMMAND [OPTIONS]\n\n{rows}\n\n"
        f"{called} COMMAND --help lists the options of a command. --version prints the version.\n"
        f"For completion in bash or zsh: source <({called} completion bash)"
    )


def _completion(arguments: List[str]) -> str:
    """A script for bash (zsh reads it after bashcompinit): commands, then their options, then files."""
    if arguments not in (["bash"], ["zsh"]):
        raise UserError("Completion is there for bash and for zsh: completion bash.")
    cases = "\n".join(f'    {name}) words="{" ".join(_options(name))}" ;;' for name in COMMANDS)
    start = "autoload -U +X bashcompinit && bashcompinit\n" if arguments == ["zsh"] else ""
    return f"""{start}_efficientnet_edge() {{
  local words="{" ".join(COMMANDS)} --help --version" current=${{COMP_WORDS[COMP_CWORD]}}
  [ "$COMP_CWORD" -gt 1 ] && case ${{COMP_WORDS[1]}} in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current") $([ "$COMP_CWORD" -gt 1 ] && compgen -f -- "$current"))
}}
complete -F _efficientnet_edge {SCRIPT}"""


def _options(name: str) -> List[str]:
    """The options of a command, as its --help lists them."""
    import contextlib
    import io
    import re

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        _main_of(name)(["--help"])
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", said.getvalue())))


def script() -> None:
    """What the installed `efficientnet-edge` calls."""
    run(main)


if __name__ == "__main__":
    script()
