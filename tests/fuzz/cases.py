"""Damaged files, made from whole ones: case number `seed` of a kind is the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import torch
from PIL import Image
from safetensors.torch import save as save_safetensors

from models.network import EfficientNet
from models.variants import VARIANTS
from runtime.artifacts.onnx_metadata import with_metadata
from runtime.backends.tensorrt.manifest import Manifest
from runtime.backends.tensorrt.options import BuildOptions
from tests.calibration.small_network import CLASSES, PREPROCESSING, SIDE, small_model

Whole = Callable[[], list[bytes]]
Mend = Callable[[bytes], bytes]
PHOTOGRAPH = Path(__file__).parents[1] / "data" / "corgi.jpg"
# Values that sizes and counts go wrong at, in 1, 2, 4 and 8 bytes.
_EDGES = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 62,
    (1 << 64) - 1,
)


def damaged(whole: bytes, other: bytes, dice: random.Random) -> bytes:
    """`whole` after one to eight mutations: bits, numbers at their edges, cuts, copies, pieces of `other`."""
    data = bytearray(whole)
    near = len(data) if dice.random() < 0.5 else min(len(data), 200)  # half of the time the header alone
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        if not data:
            break
        at = dice.randrange(min(near, len(data)))
        end = min(len(data), at + dice.choice((1, 2, 4, 8, 64, 1024)))
        action = dice.randrange(9)
        if action == 0:
            data[at] ^= 1 << dice.randrange(8)
        elif action == 1:
            data[at] = dice.randrange(256)
        elif action == 2:
            size = dice.choice((1, 2, 4, 8))
            value = dice.choice(_EDGES) & ((1 << 8 * size) - 1)
            data[at : at + size] = value.to_bytes(size, dice.choice(("little", "big")))
        elif action == 3:
            del data[at:]
        elif action == 4:
            del data[at:end]
        elif action == 5:
            data[at:at] = data[at:end] * dice.choice((1, 2, 50))
        elif action == 6:
            data[at:end] = bytes(end - at)
        elif action == 7:
            data[at:end] = dice.randbytes(end - at)
        else:
            start = dice.randrange(len(other))
            data[at:end] = other[start : start + dice.choice((4, 64, 1024, len(other)))]
    return bytes(data)


# Whole files


@lru_cache(None)
def _square(side: int) -> Image.Image:
    with Image.open(PHOTOGRAPH) as image:
        return image.convert("RGB").resize((side, side * 3 // 4))


def _picture(side: int) -> Image.Image:
    return _square(side).copy()  # Pillow leaves one format's settings on the image that it saves


def _saved(form: str, image: Image.Image | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    (image or _picture(96)).save(file, form, **options)
    return file.getvalue()


def jpegs() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a phone"
    return [
        _saved("JPEG", exif=exif),
        _saved("JPEG", progressive=True, quality=60),
        _saved("JPEG", subsampling=0),
        _saved("JPEG", _picture(96).convert("L")),
        _saved("JPEG", _picture(96).convert("CMYK")),
        _saved("JPEG", _picture(640), quality=30),
        _saved("MPO", save_all=True, append_images=[_picture(48)]),
    ]


def pngs() -> list[bytes]:
    deep = Image.fromarray(np.asarray(_picture(64).convert("L")).astype(np.uint16) * 257)
    animated = _saved("PNG", save_all=True, append_images=[_picture(96).rotate(90)])
    palette = _picture(96).quantize(16)
    clear = _picture(64).convert("RGBA")
    clear.putalpha(77)
    return [
        _saved("PNG"),
        _saved("PNG", deep),
        _saved("PNG", palette, transparency=3),
        _saved("PNG", clear),
        animated,
        _saved("PNG", _picture(64).convert("1")),
        _saved("PNG", pnginfo=_texts()),
    ]


def _texts() -> object:
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_text("Comment", "a" * 300, zip=True)
    texts.add_itxt("Titel", "ä", "de", "Ü", zip=True)
    return texts


def webps() -> list[bytes]:
    clear = _picture(64).convert("RGBA")
    clear.putalpha(77)
    return [
        _saved("WEBP"),
        _saved("WEBP", lossless=True),
        _saved("WEBP", clear),
        _saved("WEBP", save_all=True, append_images=[_picture(96).rotate(90)]),
    ]


def bmps() -> list[bytes]:
    return [
        _saved("BMP"),
        _saved("BMP", _picture(64).quantize(16)),
        _saved("BMP", _picture(64).convert("1")),
        _saved("BMP", _picture(64).convert("L")),
        _rle_bmp(),
    ]


def _rle_bmp() -> bytes:
    """8-bit, run-length encoded: Pillow reads but does not write it."""
    rows = b"".join(bytes([16, y, 0, 0]) for y in range(16)) + b"\x00\x02\x03\x01\x00\x04\x01\x02\x03\x04\x00\x01"
    palette = bytes(1024)
    head = struct.pack("<IiiHHIIiiII", 40, 16, 16, 1, 8, 1, len(rows), 2835, 2835, 256, 0)
    return b"BM" + struct.pack("<IHHI", 14 + 40 + 1024 + len(rows), 0, 0, 14 + 40 + 1024) + head + palette + rows


def gifs() -> list[bytes]:
    palette = _picture(96).quantize(64)
    moving = _saved("GIF", palette, save_all=True, append_images=[palette.rotate(90)], duration=50, disposal=2)
    clear = _saved("GIF", palette, transparency=5, interlace=1)
    return [_saved("GIF", palette), clear, moving, _saved("GIF", comment=b"c" * 400)]


def tiffs() -> list[bytes]:
    ways: list[dict[str, object]] = [
        {"compression": name}
        for name in ("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg", "group4", "lzma", "zstd", "webp")
    ]
    files = [_saved("TIFF", big_tiff=True), _saved("TIFF", save_all=True, append_images=[_picture(48)])]
    for way in ways:
        image = _picture(64).convert("1") if way["compression"] == "group4" else _picture(64)
        try:
            files.append(_saved("TIFF", image, **way))
        except Exception:  # this libtiff was built without it
            continue
    return files


@lru_cache(None)
def onnx_graph() -> bytes:
    return small_model().SerializeToString()


METADATA = {
    "project": "efficientnet-edge",
    "schema": "1",
    "precision": "fp32",
    "variant": "small",
    "weights": "made for a test",
    "weights_sha256": "0" * 64,
    "resolution": str(SIDE),
    "crop": "1.0",
    "interpolation": "bilinear",
    "mean": json.dumps(PREPROCESSING.mean),
    "std": json.dumps(PREPROCESSING.std),
    "classes": str(CLASSES),
    "labels": json.dumps([f"class {i}" for i in range(CLASSES)]),
    "wnids": json.dumps([f"n0000000{i}" for i in range(CLASSES)]),
}


def onnx_files() -> list[bytes]:
    return [with_metadata(onnx_graph(), METADATA)[0]]


def onnx_graphs() -> list[bytes]:
    return [onnx_graph(), onnx_graph_with_control_flow()]


@lru_cache(None)
def onnx_graph_with_control_flow() -> bytes:
    model = onnx.ModelProto.FromString(onnx_graph())
    value = onnx.helper.make_tensor_value_info("chosen", onnx.TensorProto.FLOAT, [])
    branch = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["six"], ["chosen"])], "branch", [], [value])
    condition = onnx.helper.make_tensor("condition", onnx.TensorProto.BOOL, [], [True])
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["condition"], value=condition))
    model.graph.node.append(
        onnx.helper.make_node("If", ["condition"], ["chosen"], then_branch=branch, else_branch=branch)
    )
    return model.SerializeToString()


def manifests() -> list[bytes]:
    sha256, options = hashlib.sha256(b"no engine").hexdigest(), BuildOptions("fp32")
    one = Manifest(sha256, 9, "small.fp32.onnx", "1" * 64, "tensorrt", "10.3.0", "sm_87", "Orin", options, 1.5, 7, {})
    other = one._replace(options=BuildOptions("fp16", dla=0, workspace=1 << 29), fallbacks={"a": "b"})
    return [one.to_json(), other.to_json()]


def label_files() -> list[bytes]:
    names = [f"class {i}" for i in range(CLASSES)]
    return ["\n".join(names).encode(), ("\ufeff" + "\r\n".join(f"Käfer 甲虫 {i}" for i in range(CLASSES))).encode()]


def data_set_labels() -> list[bytes]:
    files = [f"{i}.png" for i in range(9)]
    return [
        ("file,label\n" + "".join(f"{file},{i}\n" for i, file in enumerate(files))).encode(),
        ("filename,label\n" + "".join(f'"{file}","class {i}"\n' for i, file in enumerate(files))).encode(),
        ("ImageId,PredictionString\n" + "".join(f"{i},n0000000{i} 1 2 3 4\n" for i in range(9))).encode(),
        "".join(f"{file} {i}\n" for i, file in enumerate(files)).encode(),
    ]


# Lite0's first two stages, narrow: small files, with every kind of tensor that a checkpoint has.
SMALL = replace(VARIANTS["lite0"], stages=VARIANTS["lite0"].stages[:2], head=16)


@lru_cache(None)
def state() -> dict[str, torch.Tensor]:
    return EfficientNet(SMALL, classes=3).state_dict()


@lru_cache(None)
def torch_files() -> list[bytes]:
    files = []
    for held in (
        state(),
        {"state_dict_ema": state(), "epoch": 3, "arch": "lite0", "optimizer": {"lr": [0.1, None, True]}},
    ):
        for modern in (True, False):
            file = io.BytesIO()
            torch.save(held, file, _use_new_zipfile_serialization=modern)
            files.append(file.getvalue())
    return files


def pickles() -> list[bytes]:
    """The pickles within `torch_files`; `repacked` puts them back."""
    found = []
    for content in torch_files()[::2]:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found.append(archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl"))))
    return found


def safetensors_files() -> list[bytes]:
    recipe = {
        "padding": "same",
        "eps": 1e-3,
        "resolution": 192,
        "crop": 0.9,
        "interpolation": "bilinear",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "labels": ["a", "b", "c"],
    }
    return [save_safetensors(state(), {"recipe": json.dumps(recipe)}), save_safetensors(state())]


# Checksums and lengths put right after the damage, so that it gets past the first check


def as_it_is(content: bytes) -> bytes:
    return content


def png_checksums(content: bytes) -> bytes:
    data, at = bytearray(content), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        end = at + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)


def resealed(content: bytes) -> bytes:
    """A graph as an artifact: somebody computed the checksum for it."""
    return with_metadata(content, METADATA)[0]


def repacked(program: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(torch_files()[0])) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.infolist():
            content = program if member.filename.endswith("data.pkl") else old.read(member)
            new.writestr(zipfile.ZipInfo(member.filename), content)  # without the time of day
    return out.getvalue()


def safetensors_length(content: bytes) -> bytes:
    """The header's length put right: up to the end of the first JSON object."""
    end = content.find(b"}}", 8)
    return (end + 2 - 8).to_bytes(8, "little") + content[8:] if end > 0 else content


@lru_cache(None)
def _whole(make: Whole) -> list[bytes]:
    return make()


def case(make: Whole, mend: Mend, kind: str, seed: int) -> bytes:
    """Bytes of case `seed`; the first ones are the whole files themselves."""
    files = _whole(make)
    if seed < len(files):
        return mend(files[seed]) if mend is resealed or mend is repacked else files[seed]
    dice = random.Random(f"{kind} {seed}")
    content = damaged(dice.choice(files), dice.choice(files), dice)
    return mend(content) if mend in (resealed, repacked) or dice.random() < 0.7 else content
