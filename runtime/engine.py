"""Builds TensorRT engines: python -m runtime.engine --variant b1 --precision int8 [--batch 1,8,32]"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Sequence

from .command import parse_size, run
from .invocation import typed

if TYPE_CHECKING:
    from .artifacts.artifact import Artifact
    from .backends.tensorrt.manifest import Manifest
    from .backends.tensorrt.options import BuildOptions
    from .backends.tensorrt.site import Site


def main(argv: Optional[Sequence[str]] = None) -> int:
    from .artifacts.artifact import artifacts_folder, find_artifact, read_artifact, set_latest
    from .backends.backend import TENSORRT
    from .backends.tensorrt.engine import engine_of
    from .backends.tensorrt.explain import explain
    from .backends.tensorrt.options import ANY, BEST, PRECISIONS, BuildOptions, parse_batch, parse_target
    from .backends.tensorrt.tuned import tuned_layers

    parser = argparse.ArgumentParser(
        prog=typed("engine"),
        description="Builds artifacts/<variant>/<variant>.<precision>.<gpu>.engine for the GPU of this machine.",
    )
    parser.add_argument("--variant", metavar="NAME", help="an exported variant (default: the one exported last)")
    parser.add_argument("--precision", choices=(BEST, *PRECISIONS), default=BEST, help="(default: best)")
    parser.add_argument(
        "--batch", default="1,1,8", metavar="N", help="images at once: least,best,most or one number (1,1,8)"
    )
    parser.add_argument("--workspace", metavar="SIZE", help="device memory that kernels may use, as 512M")
    parser.add_argument(
        "--opt-level", type=int, metavar="N", help="0 quick to build, 5 thorough (default: TensorRT's, 3)"
    )
    parser.add_argument(
        "--dla", type=int, metavar="CORE", help="Jetson: core of the deep learning accelerator; FP16, one batch"
    )
    parser.add_argument("--gpu", metavar="SM", help="TensorRT-RTX: build for another machine's GPU, as sm_89, or any")
    parser.add_argument("--target", dest="gpu", help=argparse.SUPPRESS)  # its name until 2026
    parser.add_argument("--backend", choices=("auto", *TENSORRT), default="auto")
    parser.add_argument("--artifacts", type=Path, metavar="DIR", help="where to read and write (default: artifacts)")
    parser.add_argument(
        "--tune-seconds",
        type=float,
        metavar="S",
        help="of --precision best on a GPU: begin no candidate after this (1800)",
    )
    parser.add_argument("--explain", action="store_true", help="show what the builder made, beside FP16")
    parser.add_argument("--no-compare", action="store_true", help="don't time INT8 against FP16 afterwards")
    parser.add_argument("--force", action="store_true", help="build even if a fitting engine is there")
    parser.add_argument("--verbose", action="store_true", help="everything that TensorRT says, layer by layer")
    given = parser.parse_args(argv)

    target = parse_target(given.gpu) if given.gpu else None
    folder: Path = given.artifacts or artifacts_folder()
    site = _site([given.backend] if given.backend != "auto" else TENSORRT[::-1] if target else TENSORRT, target)
    precision = "fp16" if given.precision == BEST else given.precision
    options = BuildOptions(
        precision,
        parse_batch(given.batch),
        parse_size(given.workspace) if given.workspace else None,
        given.opt_level,
        given.dla,
        target=target,
    )
    artifact = read_artifact(find_artifact(given.variant, site.generation.source(precision), folder))
    if given.precision == BEST and site.gpu is not None and not site.generation.layer_log and given.dla is None:
        return _tuned(artifact, site, options, given)
    engine = engine_of(artifact, site, precision)
    if precision == "int8" and not given.force:
        options = options._replace(higher=tuned_layers(engine.path))
    if given.explain:
        print("\n".join(explain(artifact, site, options, given.verbose, given.force)))
    manifest = engine.current(options) if given.explain or not given.force else None
    if manifest is not None and not given.explain:
        print(f"{engine.path} is up to date ({told(manifest)}); --force builds it again")
    else:
        manifest = manifest or engine.build(options, given.verbose)
        print(f"{engine.path}: {told(manifest)}")
        memory = f", at most {manifest.peak_memory / 2**20:.0f} MB" if manifest.peak_memory else ""
        print(f"built in {manifest.seconds:.1f} s{memory}")
    if manifest.put_back and options.higher is None:
        print(
            f"{len(manifest.put_back)} depthwise layers compute in FP16: {site.library} has no INT8 kernel for them together "
            "with SiLU."
        )
    if manifest.fallbacks:
        layers = ", ".join(f"{name} ({kind})" for name, kind in manifest.fallbacks.items())
        print(f"{len(manifest.fallbacks)} layers that the DLA can't do run on the GPU: {layers}")
    if given.precision == BEST and site.generation.layer_log:
        from .backends.tensorrt.best import why_fp16

        print("\n".join(why_fp16(artifact, site, options)))
    if site.gpu is None:
        gpus = "any RTX GPU since Ampere (sm_80)" if target == ANY else f"a GPU of {site.capability}"
        print(f"For {gpus}; this machine has not run it.")
        return 0
    set_latest(artifact.variant, folder, precision)
    if precision == "int8" and not given.no_compare:
        from .backends.tensorrt.compare import compare_with_fp16

        print("\n".join(compare_with_fp16(artifact, site, options)))
    return 0


def _tuned(artifact: Artifact, site: Site, options: BuildOptions, given: argparse.Namespace) -> int:
    """Finds the fastest engine on this GPU, or says what an earlier search found."""
    from .artifacts.artifact import set_latest
    from .backends.backend import to_stderr
    from .backends.tensorrt.explain import explain
    from .backends.tensorrt.tune import SECONDS, before, tune
    from .backends.tensorrt.tuned import lines
    from .printable import printable

    known = None if given.force else before(artifact, site, options)
    found = known or tune(artifact, site, options, given.tune_seconds or SECONDS, to_stderr)
    print(f"{found.engine.path}: {told(found.manifest)}")
    if known:
        print("up to date; --force times the candidates again. They were:")
    print("\n".join(map(printable, lines(found.record))))
    if given.explain:
        kept = options._replace(precision=found.engine.precision, higher=found.manifest.options.higher)
        print("\n".join(explain(artifact, site, kept, given.verbose)))
    set_latest(artifact.variant, artifact.path.parent.parent, found.engine.precision)
    return 0


def _site(modules: Sequence[str], target: Optional[str]) -> Site:
    """The first of `modules` that is installed and works here. Raises UserError if none does."""
    from .backends.tensorrt.generations import installed
    from .backends.tensorrt.site import open_site
    from .errors import UserError

    failed = []
    for module in [name for name in modules if installed(name)] or modules[:1]:
        try:
            site = open_site(module, target)
        except UserError as error:
            failed.append(str(error))
            continue
        for reason in failed:
            print(f"building with {site.library}: {reason}", file=sys.stderr)
        return site
    raise UserError(" ".join(dict.fromkeys(failed)))


def told(manifest: Manifest) -> str:
    """What an engine is, in words."""
    options = manifest.options
    from .backends.tensorrt.generations import NAMES

    gpus = "portable" if manifest.capability == "any" else manifest.capability
    parts = [f"{NAMES[manifest.module]} {manifest.version}", gpus]
    parts += [f"batch {options.batch}", f"{manifest.engine_bytes / 1e6:.1f} MB"]
    parts += [f"DLA core {options.dla}"] if options.dla is not None else []
    return ", ".join(parts)


if __name__ == "__main__":
    run(main)
