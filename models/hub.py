"""Weights from the Hugging Face hub: hf-hub:OWNER/NAME or hf-hub:OWNER/NAME@REVISION, as timm writes it; safetensors alone."""

from __future__ import annotations

import os
import re
import ssl
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from runtime.errors import UserError
from runtime.invocation import install

HUB = "hf-hub:"
FILE = "model.safetensors"
_TIMEOUT = (
    5.0  # s for one answer of the hub: its library asks six times, with pauses, which takes a minute without a network
)
_ELSE = "give WEIGHTS=path of a file"


class OnHub(NamedTuple):
    """A file of weights in the hub's cache on this machine."""

    path: Path  # .../snapshots/<revision>/model.safetensors, with the repository's config.json beside it if it has one
    repository: str  # timm/tf_efficientnet_b0.aa_in1k
    revision: str  # the commit's 40 hex digits, whatever branch or tag was asked for
    licence: str = ""  # as the repository's model card states it: apache-2.0


def fetch(given: str, *, offline: bool = False) -> OnHub:
    """The weights that `given` names, from the hub's cache or the hub. Raises UserError if they can't be had; at once, where
    the hub can't be reached."""
    repository, _, revision = given[len(HUB) :].partition("@")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository) or given.endswith("@"):
        raise UserError(f"WEIGHTS={given}: write hf-hub:OWNER/NAME, as hf-hub:timm/tf_efficientnet_b0.aa_in1k.")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise UserError(
            f"WEIGHTS={given} needs the hub's library ({error}): {install('huggingface_hub')}, or {_ELSE}."
        ) from None
    away = "not asked (--offline)" if offline else unreachable()
    where = f"{repository}{f'@{revision}' if revision else ''}"

    def have(file: str) -> Path:
        return Path(hf_hub_download(repository, file, revision=revision or None, local_files_only=bool(away)))

    try:
        path = have(FILE)
    except LocalEntryNotFoundError as error:
        reason = away or _brief(error)
        raise UserError(
            f"{where} is not in the hub's cache on this machine, and the hub was {reason}: {_ELSE}."
        ) from None
    except GatedRepoError:
        raise UserError(
            f"{where} is gated: accept its terms on its page, log in with `hf auth login` and run again, or {_ELSE}."
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"The hub has no repository {repository}, or it is private: look at its name, or {_ELSE}."
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{repository} has no revision '{revision}': name a branch, a tag or a commit of it.") from None
    except EntryNotFoundError:
        raise UserError(
            f"{where} has no model.safetensors. No other format is fetched from the hub, since it could run code: {_ELSE}."
        ) from None
    except Exception as error:  # of the connection, of the library's checks, of the disk
        raise UserError(f"{where} can't be had from the hub ({_brief(error)}): run again, or {_ELSE}.") from None
    with suppress(Exception):  # without one, conventions count for the preprocessing, and export says so
        have("config.json")
    licence = None
    with suppress(Exception):
        card = have("README.md").read_text(encoding="utf-8").partition("\n---")[0]
        licence = re.search(r"^license: *([\w.-]+) *$", card, re.MULTILINE)
    return OnHub(path, repository, path.parent.name, licence[1] if licence else "")


def unreachable() -> str:
    """Why the hub can't be asked, "" if it answers. Asks once, for five seconds at most."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "not asked (HF_HUB_OFFLINE)"
    try:
        urlopen(Request(endpoint, method="HEAD", headers={"User-Agent": "efficientnet"}), timeout=_TIMEOUT).close()
    except HTTPError:  # an answer
        return ""
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):  # the library has certificates of its own
            return ""
        return f"not reached ({endpoint}: {reason})"
    return ""


def stay_offline() -> None:
    """From now on the hub's library, of which timm is a user, takes what is in its cache and asks nobody."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when it is imported
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
