"""The table of variants, the rules that scale it, and the names that people and files give its rows."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.variants import VARIANTS, compound_scaling, round_channels, round_repeats, variant_named
from runtime.artifacts.variant_names import mentioned
from runtime.errors import UserError


def test_compound_scaling_is_the_papers():
    depth, width, resolution = compound_scaling(1)
    assert (depth, width, resolution) == (1.2, 1.1, 1.15)
    assert compound_scaling(0) == (1, 1, 1)
    assert depth * width**2 * resolution**2 == pytest.approx(2, abs=0.1)  # FLOPs double at each step
    assert compound_scaling(3) == pytest.approx((1.728, 1.331, 1.520875))
    assert compound_scaling(2, alpha=2, beta=1.5, gamma=1) == (4, 2.25, 1)


@pytest.mark.parametrize(
    ("channels", "rounded"),
    [
        (1, 8),
        (8, 8),
        (16 * 1.1, 16),
        (20, 24),
        (40 * 1.1, 48),
        (32 * 1.4, 48),
        (80 * 1.4, 112),
        (320 * 1.8, 576),
        (11, 16),
        (19, 24),  # the nearest multiple, 8 or 16, would be more than 10 % less
    ],
)
def test_round_channels(channels, rounded):
    assert round_channels(channels) == rounded


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])  # the machine may be
@given(st.floats(1, 5000))
def test_rounded_channels_are_near_and_never_much_fewer(channels):
    rounded = round_channels(channels)
    assert rounded % 8 == 0
    assert 0.9 * channels <= rounded <= channels + 8
    assert round_channels(channels, floor=0) in (rounded, rounded - 8)


def test_round_repeats_rounds_up():
    assert [round_repeats(n, 1.1) for n in (1, 2, 3, 4)] == [2, 3, 4, 5]
    assert [round_repeats(4, depth) for depth in (1.0, 1.8, 3.1)] == [4, 8, 13]


def test_b0_is_the_papers_table():
    blocks = VARIANTS["b0"].blocks()
    assert [len(stage) for stage in blocks] == [1, 2, 2, 3, 3, 4, 1]
    assert [stage[0].outputs for stage in blocks] == [16, 24, 40, 80, 112, 192, 320]
    assert [stage[0].kernel for stage in blocks] == [3, 3, 5, 3, 5, 5, 3]
    assert [stage[0].stride for stage in blocks] == [1, 2, 2, 2, 1, 2, 1]
    assert all(block.stride == 1 and block.residual for stage in blocks for block in stage[1:])
    assert [stage[0].squeezed for stage in blocks] == [8, 4, 6, 10, 20, 28, 48]  # a quarter of the inputs
    assert [stage[0].expanded for stage in blocks] == [32, 96, 144, 240, 480, 672, 1152]
    assert (VARIANTS["b0"].stem_channels, VARIANTS["b0"].head_channels) == (32, 1280)


def test_ends_scale_except_in_lite():
    assert (VARIANTS["b7"].stem_channels, VARIANTS["b7"].head_channels) == (64, 2560)
    assert (VARIANTS["lite4"].stem_channels, VARIANTS["lite4"].head_channels) == (32, 1280)
    assert [len(stage) for stage in VARIANTS["b4"].blocks()] == [2, 4, 4, 6, 6, 8, 2]
    assert [len(stage) for stage in VARIANTS["lite4"].blocks()] == [1, 4, 4, 6, 6, 8, 1]
    assert not any(block.squeezed for stage in VARIANTS["lite4"].blocks() for block in stage)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=str)
def test_stochastic_depth_grows_linearly_over_all_blocks(variant):
    drops = [block.drop for stage in variant.blocks() for block in stage]
    assert drops == pytest.approx([0.2 * i / len(drops) for i in range(len(drops))])


MENTIONS = {
    # torchvision's, timm's, lukemelas', Hugging Face's, Keras' and our own names
    "efficientnet_b0_rwightman-7f5810bc.pth": "b0",
    "efficientnet_b3_rwightman-b3899882.pth": "b3",
    "efficientnet_v2_s-dd5fe13b.pth": "v2-s",
    "tf_efficientnetv2_b0.safetensors": "v2-b0",
    "tf_efficientnetv2_b3-57773f13.pth": "v2-b3",
    "tf_efficientnetv2_l_21ft1k-60127a9d.pth": "v2-l",
    "tf_efficientnet_b7_ns-1dbc32de.pth": "b7",
    "tf_efficientnet_b0.distilled_head.safetensors": "b0",
    "tf_efficientnet_lite3-b733e338.pth": "lite3",
    "efficientnet_lite0_ra-37913777.pth": "lite0",
    "efficientnet-lite0-57934424.pth": "lite0",
    "efficientnet-b4-6ed6700e.pth": "b4",
    "EfficientNet-B5.safetensors": "b5",
    "EfficientNetB6.pth": "b6",
    "EfficientNetV2-M.pth": "v2-m",
    "EfficientNetV2B1.pth": "v2-b1",
    "flowers_b2.pth": "b2",
    "b1.fp32.onnx": "b1",
    "v2-b0.pth": "v2-b0",
    "lite4.pt": "lite4",
    # another size, another network, or no variant's name at all
    "efficientnet_b8.pth": None,
    "efficientnet_b00.pth": None,
    "tf_efficientnet_lite5.pth": None,
    "tf_efficientnetv2_xl_in21ft1k-06c35c48.pth": None,
    "tf_efficientnet_l2_ns-df73bb44.pth": None,
    "efficientnetv2_rw_s.pth": None,
    "efficientnetv2_b4.pth": None,
    "efficientnet_em.pth": None,
    "resnet50-0676ba61.pth": None,
    "mobilenet_v2-b0353104.pth": None,
    "mobilenet_v2_s.pth": None,
    "swin_v2_s-637d8ceb.pth": None,
    "swin_v2_b-781e5279.pth": None,
    "pvt_v2_b0.in1k.safetensors": None,
    "efficientvit_b0.r224_in1k.safetensors": None,
    "segformer_b0.pth": None,
    "efficientnet.pth": None,
    "sub0.pth": None,
    "db1.pth": None,
    "b0rder.pth": None,
    "model.safetensors": None,
    "": None,
}


@pytest.mark.parametrize("name", MENTIONS, ids=lambda name: name or "nothing")
def test_mentioned(name):
    assert mentioned(name) == MENTIONS[name]


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("b0", "b0"),
        (" B7 ", "b7"),
        ("efficientnet-b3", "b3"),
        ("EfficientNet_V2_S", "v2-s"),
        ("v2_s", "v2-s"),
        ("tf_efficientnetv2_b0", "v2-b0"),
        ("Lite-2", "lite2"),
        ("efficientnet_lite4", "lite4"),
    ],
)
def test_variant_named_takes_any_spelling(word, name):
    assert variant_named(word) is VARIANTS[name]


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_found_by_their_own_names(name):
    assert variant_named(name).name == mentioned(f"efficientnet_{name}.pth") == name


@pytest.mark.parametrize(
    ("word", "hint"), [("lite9", "lite"), ("v2-xl", "v2-l"), ("b", "b"), ("resnet50", None), ("", None)]
)
def test_an_unknown_variant_is_answered_with_the_nearest_and_all(word, hint):
    with pytest.raises(UserError) as caught:
        variant_named(word)
    said = str(caught.value)
    assert f"'{word}'" in said
    assert all(name in said for name in VARIANTS)
    assert (f"Did you mean {hint}" in said) if hint else ("Did you mean" not in said)
