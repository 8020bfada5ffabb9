"""A Triton server as seen from a client: its models, images to classes, and what went wrong in a sentence.

Needs tritonclient, imported at first use: pip install 'tritonclient[http,grpc]'.
"""

from __future__ import annotations

import json
import random
import threading
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from ..errors import UserError
from ..invocation import install
from ..networks.classifier import Prediction
from .config import CLASSES
from .model import IMAGE

PORTS = {"http": 8000, "grpc": 8001}  # Triton's own
RETRIES = 5  # a model that is loaded anew is away for some seconds: these wait 6 to 9
_FIRST_PAUSE, _LONGEST_PAUSE = (
    0.2,
    5.0,
)  # seconds between attempts; each is twice the one before, and up to half as long again
# What Triton answers where another attempt may do: it starts, or changes models; its queue is full; a process of its
# Python backend died.
_PASSING = ("503", "StatusCode.UNAVAILABLE", "StatusCode.RESOURCE_EXHAUSTED")
_PASSING_WORDS = ("stub process", "unknown model", "no available versions", "not at ready state", "maximum queue size")
_TIMES_OUT = ("499", "504", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED")
_STEPS = (
    "_preprocess",
    "_onnxruntime",
    "_tensorrt",
    "_postprocess",
    "_ensemble",
)  # of a variant, beside the model itself


class ServerError(UserError):
    """The server can't be reached, or fails: nothing that the command line can mend."""

    status = 1


class RequestError(ServerError):
    """The server refused or failed this one request."""


class Answered(NamedTuple):
    """What came of one image."""

    predictions: List[Prediction]  # [] with an error
    error: str
    model: Dict[str, str]  # see runtime.output.answered_by


class Server:
    """A Triton server. Several threads may use it at once."""

    def __init__(self, url: str, grpc: bool = False, timeout: float = 30.0, retries: int = RETRIES) -> None:
        """`url`: host, host:port, or with http:// or https:// before. `timeout`: seconds, of each attempt. Raises UserError."""
        self.protocol = "grpc" if grpc else "http"
        self.host, self.secure = _host_of(url, self.protocol)
        if not 0 < timeout < float("inf") or retries < 0:
            raise UserError(
                f"{retries} retries of {timeout:g} s each: give a number of seconds above 0, and 0 retries or more."
            )
        self.timeout, self.retries = timeout, retries
        self._module, self._error = _tritonclient(self.protocol)
        self._own = threading.local()  # gevent, below the HTTP client, belongs to one thread

    def index(self) -> Dict[str, Tuple[str, str]]:
        """Every model's name -> its newest version's state and why it is so. READY is what can be asked."""
        # At once or not at all: a mistyped address is not worth waiting for.
        found = self._try(lambda client, limit: client.get_model_repository_index(**limit), as_json=True, retries=0)
        models: Dict[str, Tuple[str, str]] = {}
        for each in found["models"] if isinstance(found, dict) and "models" in found else found or []:
            state = (each.get("state", ""), each.get("reason", ""))
            if models.get(each["name"], ("", ""))[0] != "READY":
                models[each["name"]] = state
        return models

    def config(self, model: str) -> Dict[str, Any]:
        found = self._try(lambda client, limit: client.get_model_config(model, **limit), as_json=True)
        return found.get("config", found)

    def model(self, name: Optional[str] = None) -> Tuple[str, Dict[str, Any]]:
        """Name and config.pbtxt of a model that takes images and gives classes; without a name, of the only one.

        Raises UserError if there is none such, and says which there are.
        """
        index = self.index()
        ready = [each for each, (state, _) in index.items() if state == "READY"]
        whole = sorted(each for each in ready if not each.endswith(_STEPS))
        there = f"it has {', '.join(sorted(ready))}" if ready else "it has none that is ready"
        if name is None:
            if len(whole) != 1:
                raise UserError(f"The server at {self.host} has to be told which model to ask, with --model: {there}.")
            name = whole[0]
        if name not in index:
            raise UserError(f"The server at {self.host} has no model '{name}': {there}.")
        state, reason = index[name]
        if state != "READY":
            why = _first_line(reason) or state.lower() or "not loaded"
            raise ServerError(f"The model '{name}' at {self.host} is not ready: {why}.")
        config = self.config(name)
        if not set(CLASSES) <= {each["name"] for each in config.get("output", ())}:
            raise UserError(f"The model '{name}' at {self.host} does not take images and give classes: {there}.")
        return name, config

    def classify(self, model: str, image: bytes, top: int, name: str) -> Answered:
        """The `top` likeliest classes of an encoded image, which errors call `name`.

        Raises RequestError if the server can't answer this, ServerError if it can't be reached, in all attempts.
        """
        images = self._module.InferInput("images", [1, 1], "BYTES")
        images.set_data_from_numpy(np.array([[image]], np.object_))
        outputs = [self._module.InferRequestedOutput(output) for output in CLASSES]

        def ask(client: Any, limit: Dict[str, Any]) -> Any:
            return client.infer(model, [images], outputs=outputs, parameters={"top": top}, **limit)

        found = self._try(ask)
        indices, probabilities, labels, errors, told = (found.as_numpy(output)[0] for output in CLASSES)
        error = errors[0].decode()
        if error:
            error = name + error[len(IMAGE) :] if error.startswith(IMAGE) else f"{name}: {error}"
            return Answered([], error, json.loads(told[0]))
        rows = [Prediction(int(i), label.decode(), float(p)) for i, label, p in zip(indices, labels, probabilities)]
        return Answered(rows, "", json.loads(told[0]))

    def _client(self) -> Any:
        client = getattr(self._own, "client", None)
        if client is None:
            if self.protocol == "grpc":
                client = self._module.InferenceServerClient(self.host, ssl=self.secure)
            else:
                client = self._module.InferenceServerClient(
                    self.host, ssl=self.secure, connection_timeout=self.timeout, network_timeout=self.timeout
                )
            self._own.client = client
        return client

    def _try(
        self, ask: Callable[[Any, Dict[str, Any]], Any], as_json: bool = False, retries: Optional[int] = None
    ) -> Any:
        """What `ask(client, options)` gives, in as many attempts as it takes."""
        retries = self.retries if retries is None else retries
        limit: Dict[str, Any] = {"client_timeout": self.timeout} if self.protocol == "grpc" else {}
        if as_json and self.protocol == "grpc":
            limit["as_json"] = True
        for attempt in range(retries + 1):
            try:
                return ask(self._client(), limit)
            except Exception as error:  # geventhttpclient's have no common base
                self._own.client = None  # a connection in an unknown state
                failed, passing = self._told(error)
                if failed is None:
                    raise
                if not passing or attempt == retries:
                    tried = f" ({attempt + 1} attempts)" if attempt else ""
                    raise type(failed)(f"{str(failed).rstrip('.')}{tried}.") from None
            pause = min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE)
            time.sleep(pause * (1 + random.random() / 2))  # not all clients at the same moment
        raise AssertionError

    def _told(self, error: Exception) -> Tuple[Optional[ServerError], bool]:
        """`error` as a sentence, and whether another attempt may do; None if it is a bug of ours."""
        if isinstance(error, self._error):
            status, message = str(error.status() or ""), _first_line(error.message() or "")
            if status in _TIMES_OUT or "Deadline Exceeded" in message:
                return ServerError(f"The server at {self.host} did not answer within {self.timeout:g} s"), True
            if status == "StatusCode.UNAVAILABLE" and "connect" in message.lower():
                return self._unreachable(message), True
            passing = status in _PASSING or any(words in message.lower() for words in _PASSING_WORDS)
            return RequestError(f"The server at {self.host} refused: {message or status}"), passing
        if isinstance(error, OSError) and ("timed out" in str(error) or isinstance(error, TimeoutError)):
            return ServerError(f"The server at {self.host} did not answer within {self.timeout:g} s"), True
        if isinstance(error, OSError):
            return self._unreachable(error.strerror or str(error)), True
        if isinstance(error, ValueError):  # what came is no JSON
            return self._unreachable("what answers there is something else"), False
        if type(error).__module__.split(".")[0] in ("geventhttpclient", "gevent", "http"):
            return self._unreachable(f"{type(error).__name__}: {_first_line(str(error))}"), True
        return None, False

    def _unreachable(self, reason: str) -> ServerError:
        other = "grpc" if self.protocol == "http" else "http"
        return ServerError(
            f"No Triton server answers at {self.host} over {self.protocol} ({reason}): start it, or name another with --url; "
            f"{other} is usually port {PORTS[other]}"
        )


def _host_of(url: str, protocol: str) -> Tuple[str, bool]:
    """(host:port, whether it is encrypted). Raises UserError."""
    scheme, mark, rest = url.partition("://")
    rest = (rest if mark else url).rstrip("/")
    host, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]"):  # no port; [::1] has colons of its own
        host, port = rest, str(PORTS[protocol])
    if not host or not port.isdigit() or "/" in rest or (mark and scheme not in ("http", "https", "grpc", "grpcs")):
        raise UserError(f"'{url}' is no address of a server: give host:port, as localhost:{PORTS[protocol]}.")
    return f"{host}:{port}", mark != "" and scheme.endswith("s")


def _tritonclient(protocol: str) -> Tuple[Any, Any]:
    try:
        import importlib

        module = importlib.import_module(f"tritonclient.{protocol}")
        errors = importlib.import_module("tritonclient.utils")
    except (ImportError, RuntimeError) as error:  # RuntimeError: installed without this protocol
        why = _first_line(str(error))
        raise UserError(f"tritonclient can't be imported ({why}): {install('tritonclient[http,grpc]')}.") from None
    return module, errors.InferenceServerException


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else ""
