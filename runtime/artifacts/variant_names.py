"""One spelling for each of the family's networks: B0, efficientnet_b0, efficientnet-b0 and tf_efficientnetv2_b0 are b0, b0,
b0 and v2-b0 to every command. `python -m runtime.artifacts.variant_names NAME` prints what the artifacts of NAME are called;
the Makefile asks that, with any Python, so nothing but Python's own modules is imported here."""

import re
import sys
from typing import Optional

TIMM = "timm:"  # in front of a variant: one of timm's models

# How files name a variant: efficientnet_b0, EfficientNet-B0, tf_efficientnetv2_b0, efficientnet_v2_s, efficientnet-lite0, b0.
# Not these, which lie beside them in caches: swin_v2_s, pvt_v2_b0, efficientvit_b0, mobilenet_v2_l, segformer_b0.
_MENTION = re.compile(
    r"(?<![a-z0-9])(?<!(?:net|vit|pvt|mit)[-_.])(?<!swin[-_.])(?<!former[-_.])(?<!v2[-_.])"
    r"(?:(?:tf[-_.]?)?efficientnet[-_.]?)?(?:(v2)[-_.]?(b[0-3]|s|m|l)|(lite)[-_.]?([0-4])|(b[0-7]))(?![a-z0-9])",
    re.IGNORECASE,
)


def mentioned(text: str) -> Optional[str]:
    """The variant that a file name or a user's word mentions, or None: `tf_efficientnetv2_b0.safetensors` -> `v2-b0`."""
    found = _MENTION.search(text)
    return _variant(found) if found else None


def canonical(name: str) -> str:
    """`name` as the project spells it where all of it, up to a head, names a variant: `EfficientNet_B1-embedding` ->
    `b1-embedding`. What timm's models are called becomes the name of a file: `timm:resnet50` -> `timm-resnet50`. Any other
    name stays as it is."""
    if name.startswith(TIMM):
        return TIMM.replace(":", "-") + name[len(TIMM) :]
    base, dash, head = re.fullmatch(r"(.*?)(?:(-)(embedding|features))?", name.strip(), re.DOTALL).groups("")  # type: ignore[union-attr]
    found = _MENTION.fullmatch(base)
    return _variant(found) + dash + head if found else name


def is_variant(name: str) -> bool:
    """Whether `name` means one of the family's networks, with or without a head, in any spelling."""
    return _MENTION.fullmatch(re.sub(r"-(embedding|features)$", "", name.strip())) is not None


def _variant(found: "re.Match[str]") -> str:
    v2, v2_size, lite, lite_size, plain = (group and group.lower() for group in found.groups())
    return f"v2-{v2_size}" if v2 else f"lite{lite_size}" if lite else plain


if __name__ == "__main__":
    print(canonical(sys.argv[1]))
