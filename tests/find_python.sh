#!/usr/bin/env bash
# Prints the path of a working Python of version $1 (3.8, say), from PATH or from pyenv; fails if there is none.
for python in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1."*/bin/python; do
  if "$python" -c "import sys, venv; sys.exit(sys.version_info[:2] != (${1/./, }))" 2>/dev/null; then
    command -v "$python"
    exit 0
  fi
done
exit 1
