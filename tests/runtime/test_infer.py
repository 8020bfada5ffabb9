"""python -m runtime.infer: what it prints and how it ends; once, and where the process matters, in a process of its own."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Set, Tuple, Union

import pytest

from runtime.artifacts.artifact import RANDOM_WEIGHTS, read_artifact
from runtime.infer import main
from runtime.networks.classifier import Classifier
from tests.in_process import Done, called

ROOT = Path(__file__).resolve().parents[2]
CORGI = ROOT / "tests" / "data" / "corgi.jpg"
LIGHTHOUSE = CORGI.with_name("lighthouse.jpg")
posix = pytest.mark.skipif(os.name != "posix", reason="signals, pipes and file names are those of POSIX")

Argument = Union[str, bytes, Path]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_artifacts: Path) -> Path:
    """The current folder, from which the small network is the model exported last."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFICIENTNET_ARTIFACTS", str(small_artifacts))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def start(*arguments: Argument, program: Any = ("-m", "runtime.infer"), **options: Any) -> subprocess.Popen[bytes]:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, *program, *map(os.fsencode, arguments)], **pipes, **options)


def infer(*arguments: Argument, stdin: bytes = b"", **environment: str) -> Done:
    return after_the_first(called(main, *arguments, stdin=stdin, **environment))


def after_the_first(done: Done) -> Done:
    """What infer said after the line that names the network; before it, a trial of the processor may have said how it went."""
    before, found, rest = done.err.partition("answering: ")
    if not found or any("in a trial on this processor" not in line for line in before.splitlines()):
        return done
    return done._replace(err=rest.partition("\n")[2])


def finished(process: subprocess.Popen[bytes], stdin: bytes = b"") -> Done:
    out, err = process.communicate(stdin, 300)
    assert b"Traceback" not in err and b"Exception ignored" not in err, err.decode()
    return after_the_first(Done(process.returncode, out.decode(), err.decode()))


def test_the_first_line_of_stderr_names_the_network(here: Path) -> None:
    done = called(main, CORGI)
    assert done.err.startswith("answering: lite0 fp32 (efficientnet-lite0-57934424.pth, "), done.err
    assert " on onnxruntime " in done.err.splitlines()[0]


def blocks(out: str) -> Dict[str, List[str]]:
    """The text form: file name -> its lines, which are indented."""
    found: Dict[str, List[str]] = {}
    for line in out.splitlines():
        if not line.startswith("  "):
            found[line] = lines = []
        else:
            lines.append(line.strip())
    return found


@pytest.mark.smoke
def test_images(here: Path, photographs: Dict[Path, Set[int]], artifacts: Path, model: Path) -> None:
    """On lite0 itself."""
    labels = read_artifact(model).labels
    done = finished(start(*photographs, env={**os.environ, "EFFICIENTNET_ARTIFACTS": str(artifacts)}))
    assert (done.status, done.err) == (0, "")
    answers = blocks(done.out)
    assert list(answers) == [str(photograph) for photograph in photographs]
    for photograph, right in photographs.items():
        lines = answers[str(photograph)]
        assert len(lines) == 5 and all(re.fullmatch(r"\d+\.\d\d%  \S.*", line) for line in lines)
        assert lines[0].split("%  ")[1] in {labels[index] for index in right}
        shares = [float(line.split("%")[0]) for line in lines]
        assert shares == sorted(shares, reverse=True) and shares[0] > 20 and sum(shares) <= 100.1


def test_folder_pattern_and_standard_input(here: Path) -> None:
    for name, photograph in (("b/corgi.jpg", CORGI), ("a/deep/lighthouse.JPG", LIGHTHOUSE), ("c.jpeg", CORGI)):
        (here / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(photograph), str(here / "photos" / name))
    (here / "photos" / "notes.txt").write_text("no image")
    done = infer("--top", "1", "photos", "photos/*/*.jp*", "-", stdin=LIGHTHOUSE.read_bytes())
    assert (done.status, done.err) == (0, "")
    corgi, lighthouse = "Cardigan, Cardigan Welsh corgi", "beacon, lighthouse, beacon light, pharos"
    lines = done.out.splitlines()
    assert lines[::2] == [
        "photos/c.jpeg",
        "photos/a/deep/lighthouse.JPG",
        "photos/b/corgi.jpg",
        "photos/b/corgi.jpg",
        "standard input",
    ]
    assert [line.split("%  ")[1] for line in lines[1::2]] == [corgi, lighthouse, corgi, corgi, lighthouse]


def test_json(here: Path) -> None:
    (here / "bad.jpg").write_bytes(CORGI.read_bytes()[:9000])
    done = infer("--json", "--top", "3", "--time", CORGI, "bad.jpg", "gone.jpg", LIGHTHOUSE)
    assert done.status == 1
    assert len(done.err.splitlines()) == 3 and "bad.jpg: the file is truncated" in done.err and "gone.jpg" in done.err
    assert done.err.endswith("\n2 of 4 images failed\n")
    corgi, bad, gone, lighthouse = map(json.loads, done.out.splitlines())
    common = {"variant": "lite0", "precision": "fp32", "backend": "onnxruntime"}
    for line, file, index in ((corgi, CORGI, 264), (lighthouse, LIGHTHOUSE, 437)):
        assert {key: line[key] for key in common} == common and line["file"] == str(file)
        assert set(line) == {"file", "predictions", "ms", *common}
        assert [list(prediction) for prediction in line["predictions"]] == [["index", "label", "probability"]] * 3
        assert line["predictions"][0]["index"] == index and 0.5 < line["predictions"][0]["probability"] <= 1
        assert list(line["ms"]) == ["decode", "resize", "normalise", "network", "total"]
        assert sum(line["ms"].values()) == pytest.approx(2 * line["ms"]["total"], abs=0.01)
    for line, file in ((bad, "bad.jpg"), (gone, "gone.jpg")):
        assert set(line) == {"file", "error", *common} and line["file"] == file and file in line["error"]


def test_csv(here: Path) -> None:
    done = infer("--csv", "--top", "2", "--time", "gone.jpg", LIGHTHOUSE, CORGI)
    assert done.status == 1 and "gone.jpg" in done.err
    header, *rows = csv.reader(done.out.splitlines())
    stages = ["decode_ms", "resize_ms", "normalise_ms", "network_ms", "total_ms"]
    assert header == ["file", "rank", "index", "label", "probability", *stages]
    assert [row[:3] for row in rows[::2]] == [[str(LIGHTHOUSE), "1", "437"], [str(CORGI), "1", "264"]]
    assert rows[0][3] == "beacon, lighthouse, beacon light, pharos"  # commas and all
    assert [row[1] for row in rows] == ["1", "2"] * 2
    assert all(len(row) == 10 and 0 <= float(row[4]) <= 1 and min(map(float, row[5:])) >= 0 for row in rows)


def test_one_bad_file_among_good_ones(here: Path) -> None:
    (here / "empty.jpg").write_bytes(b"")
    done = infer("--time", "--threads", "1", "--precision", "fp16", CORGI, "empty.jpg", LIGHTHOUSE)
    assert done.status == 1
    assert done.err == "error: empty.jpg: the file is empty.\n1 of 3 images failed\n"
    answers = blocks(done.out)
    assert list(answers) == [str(CORGI), str(LIGHTHOUSE)]
    assert all(
        len(lines) == 6 and re.fullmatch(r"decode .* ms, .*, total [0-9.]+ ms", lines[5]) for lines in answers.values()
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "required: IMAGE"),
        (("--tpo", "3", "x.jpg"), "unrecognized arguments"),
        (("--top", "0", "x.jpg"), "--top: '0' is not a whole number above 0"),
        (("--top", "many", "x.jpg"), "--top: 'many' is not a whole number above 0"),
        (("--threads", "1.5", "x.jpg"), "--threads: '1.5' is not"),
        (("--threads", "99999", "x.jpg"), "99999 threads: choose between"),
        (("--json", "--csv", "x.jpg"), "not allowed with"),
        (("--model", "m.onnx", "--variant", "b0", "x.jpg"), "not allowed with"),
        (("--model", "m.onnx", "--precision", "fp16", "x.jpg"), "--precision goes with a variant"),
        (("--model", "m.onnx", "x.jpg"), "There is no file m.onnx"),
        (("--model", "empty", "x.jpg"), "empty holds no artifacts"),
        (("--variant", "b9", "x.jpg"), "make export VARIANT=b9"),
        (("--precision", "int8", "x.jpg"), "make calibrate VARIANT=lite0"),
        (("--precision", "half", "x.jpg"), "no precision 'half'"),
        (("--backend", "gpu", "x.jpg"), "no backend 'gpu'"),
        (("empty",), "The folder empty has no images"),
        ((str(CORGI), "empty"), "The folder empty has no images"),
        (("*.jpg",), "No file matches *.jpg"),
    ],
)
def test_wrong_use(here: Path, arguments: Tuple[str, ...], says: str) -> None:
    (here / "empty").mkdir()
    done = infer(*arguments)
    assert (done.status, done.out) == (2, "")
    assert says in done.err and "error: " in done.err.splitlines()[-1]


def test_no_model_yet(here: Path) -> None:
    done = infer(CORGI, EFFICIENTNET_ARTIFACTS=str(here / "artifacts"))
    assert done.status == 2 and "make export" in done.err and len(done.err.splitlines()) == 1


def test_random_weights_are_called_so(here: Path, random_model: Path) -> None:
    """Nobody may take these classes for answers, whichever form they come in."""
    done = infer("--model", random_model, CORGI)
    assert done.status == 0 and done.err.count(RANDOM_WEIGHTS) == 1
    assert "random weights" in done.out.splitlines()[0]
    with pytest.warns(UserWarning, match=RANDOM_WEIGHTS):  # a program that opens it is warned too
        Classifier(random_model).close()
    done = infer("--model", random_model, "--json", CORGI, "gone.jpg")
    assert "random weights" in done.err
    assert [json.loads(line)["weights"] for line in done.out.splitlines()] == ["random weights"] * 2
    done = infer("--model", random_model, "--csv", CORGI)
    assert "random weights" in done.err
    assert [row["weights"] for row in csv.DictReader(done.out.splitlines())] == ["random weights"] * 5


def test_nothing_heavy_is_imported(here: Path) -> None:
    """Not even where it is installed: a device must not need it."""
    program = (
        "import runpy, sys\n"
        "class Barred:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'onnx', 'models', 'export', 'calibration'):\n"
        "            print('BARRED', name, file=sys.stderr)\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Barred())\n"
        "import runtime, runtime.infer\n"
        "assert not {'numpy', 'PIL', 'onnxruntime'} & set(sys.modules), 'imported before they are needed'\n"
        "del sys.modules['runtime.infer']\n"
        "runpy.run_module('runtime.infer', run_name='__main__', alter_sys=True)\n"
    )
    done = finished(start(CORGI, program=("-c", program)))
    assert (done.status, done.err) == (0, "") and "corgi" in done.out.splitlines()[1]


@posix
def test_closed_pipe(here: Path) -> None:
    """... | head -1, of more than a pipe holds: else it might have written everything before it is closed."""
    for form in ("--csv", "--json"):
        process = start(form, "--top", "1000", *[CORGI] * 20)
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.readline().startswith(b"answering: ") and process.stderr.read() == b""
        assert process.wait(300) == 141
        process.stderr.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_full_disk(here: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "runtime.infer", str(CORGI)], stdout=full, stderr=subprocess.PIPE, timeout=300
        )
    assert done.returncode == 1
    assert done.stderr.splitlines(True)[-1] == b"error: the output can't be written: No space left on device.\n"


@posix
def test_interrupted(here: Path, random_model: Path) -> None:
    """Ctrl-C while it waits for standard input. Its note on random weights tells when it is about to."""

    def heed() -> None:  # a job in a shell's background ignores it, and so would its children
        signal.signal(signal.SIGINT, signal.default_int_handler)

    process = start("--model", random_model, "-", preexec_fn=heed)
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"answering: ") and b"random weights" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(300) == 130
        err = process.stderr.read()
        assert b"interrupted" in err and b"Traceback" not in err
    finally:
        process.kill()
        process.communicate()


@posix
def test_file_names(here: Path) -> None:
    names = [
        b"line\nbreak.jpg",
        b"red \x1b[31m.jpg",
        b"caf\xe9.jpg",
        "Käfer 甲虫.jpg".encode(),
        b"--top.jpg",
        b"[1].jpg",
    ]
    kept = []
    for name in names:
        with contextlib.suppress(OSError):  # macOS refuses what is not UTF-8
            shutil.copy(os.fsencode(CORGI), os.path.join(os.fsencode(here), name))
            kept.append(name)
    text = infer("--top", "1", "--", *kept, b"gone\x1b\xff.jpg")
    assert text.status == 1 and "\x1b" not in text.out + text.err and r"gone\x1b\udcff.jpg" in text.err
    lines = text.out.splitlines()
    assert len(lines) == 2 * len(kept) and all("corgi" in line for line in lines[1::2])
    assert lines[:3:2] == [r"line\nbreak.jpg", r"red \x1b[31m.jpg"] and "Käfer 甲虫.jpg" in lines

    pattern = infer(b"\x1b[31m*.jpg")
    assert pattern.status == 2 and r"No file matches \x1b[31m*.jpg" in pattern.err

    done = infer("--json", "--", *kept)
    assert [os.fsencode(json.loads(line)["file"]) for line in done.out.splitlines()] == kept  # every byte of them
    done = infer("--csv", "--top", "1", "--", *kept)
    assert [row["index"] for row in csv.DictReader(done.out.splitlines())] == ["264"] * len(kept)


@posix
@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
    ],
)
def test_terminal_without_unicode(here: Path, environment: Dict[str, str]) -> None:
    name = "Käfer 甲虫.jpg"
    shutil.copy(str(CORGI), str(here / name))
    done = finished(start("--top", "1", name, "gone ä.jpg", env={**os.environ, **environment}))
    assert done.status == 1 and "gone" in done.err
    shown, best = done.out.splitlines()
    assert shown.startswith("K") and shown.endswith(".jpg") and "corgi" in best
