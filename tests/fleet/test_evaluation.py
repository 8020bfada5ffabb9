"""runtime.evaluate and the sweep's latencies over a cluster."""

from __future__ import annotations

import json
import subprocess

import pytest

pytest.importorskip("ray", reason="ray is not installed: make test-ray installs it")

from tests.fleet.nodes import Nodes, command, environment, run, until


def test_the_same_figures_as_on_one_machine(nodes, model, photographs, tmp_path):
    labels = {path: (263 if int(path.stem[1:]) % 2 == 0 else 437) for path in photographs.glob("**/p*.jpg")}
    lines = "".join(f"{path.relative_to(photographs)},{label}\n" for path, label in sorted(labels.items()))
    (tmp_path / "labels.csv").write_text("file,label\n" + lines)
    arguments = ["runtime.evaluate", "--data", photographs, "--labels", tmp_path / "labels.csv", "--json"]
    arguments += ["--model", model.with_name("lite0.fp16.onnx"), "--reference", model]
    alone, spread = run(tmp_path, *arguments), run(tmp_path, *arguments, f"--ray={nodes.address}")
    assert (alone.status, spread.status) == (0, 0), spread.err
    figures = [json.loads(done.out) for done in (alone, spread)]
    speeds = [each.pop("images_per_second") for each in figures]
    assert all(speed > 0 for speed in speeds)
    assert json.dumps(figures[0]) == json.dumps(figures[1])
    assert figures[0]["sqnr_db"] is not None and figures[0]["unreadable"] == 1 and figures[0]["top1"] > 0
    assert not any((tmp_path / "reports").iterdir()), "what was only for the time of the job is left"


def test_labels_of_another_set_are_found_out(nodes, model, photographs, tmp_path):
    lines = "".join(f"{path.relative_to(photographs)},1\n" for path in sorted(photographs.glob("**/p*.jpg")))
    (tmp_path / "labels.csv").write_text("file,label\n" + lines)
    arguments = ["runtime.evaluate", "--data", photographs, "--labels", tmp_path / "labels.csv", "--model", model]
    alone, spread = run(tmp_path, *arguments), run(tmp_path, *arguments, f"--ray={nodes.address}")
    assert alone.status == spread.status == 2
    assert alone.err.splitlines()[-1] == spread.err.splitlines()[-1] and "another label set" in alone.err


def test_two_latency_jobs_never_share_a_node(tmp_path):
    cluster = Nodes(0, head_cpus=2)
    processes = []
    try:
        for name in ("first", "second"):
            with open(tmp_path / name, "w") as output:
                measures = command("tests.fleet.measures", cluster.address)
                processes.append(
                    subprocess.Popen(
                        measures,
                        cwd=tmp_path,
                        env=environment(tmp_path),
                        stdin=subprocess.PIPE,
                        stdout=output,
                        text=True,
                    )
                )
            words = "alone, 0 CPUs free\n" if name == "first" else "waiting for this node to have nothing else to do\n"
            until(lambda words=words, name=name: (tmp_path / name).read_text().endswith(words), processes[-1])
        assert "alone" not in (tmp_path / "second").read_text()
        processes[0].communicate("")
        until(lambda: "alone, 0 CPUs free" in (tmp_path / "second").read_text(), processes[1])
        assert (tmp_path / "first").read_text().endswith("over\n")
        processes[1].kill()  # a process that dies gives the node back
        processes[1].communicate()
        third = run(tmp_path, "tests.fleet.measures", cluster.address)
        assert third.out.splitlines()[-2:] == ["alone, 0 CPUs free", "over"], third.err
    finally:
        for process in processes:
            process.kill()
            process.communicate()
        cluster.stop()


def test_sweep(nodes, model, photographs, tmp_path):
    arguments = ["runtime.sweep", "--variants", "lite0", "--precisions", "fp32,fp16", "--data", photographs / "sub"]
    arguments += ["--seconds", 0.2]
    (tmp_path / "artifacts").symlink_to(model.parent.parent)
    done = run(tmp_path, *arguments, "--ray", nodes.address)
    assert done.status == 0, done.err
    rows = json.loads((tmp_path / "reports" / "sweep" / "sweep.json").read_text())["rows"]
    assert [(row["precision"], "total" in row) for row in rows] == [("fp32", True), ("fp16", True)]
    assert rows[1]["agreement"] > 0 and rows[1]["pictures"] == 30, rows[1].get("accuracy_reason")
