"""Channels of very different size made alike in front of one scale for all, with nothing in the way of SiLU and Q.

A factor t moves through ReLU exactly, and through SiLU nearly where it matters: a SiLU(t y + b) is close to SiLU(y) for the
values y that a channel takes, with the right b and a. t and b go into the layer that makes y, a into the weights of the depthwise
layer behind, which has a scale for each channel, so the graph stays as it is. What is not exact is weighed at the logits
together with what rounding costs (`response`), channel by channel.

The idea for ReLU is cross-layer equalisation (Nagel et al., "Data-free quantization through weight equalization and bias
correction", ICCV 2019).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from calibration.collect.ranges import LEVELS, Range, half_precision
from calibration.layer_graph import Layer, LayerGraph
from calibration.quantise.prepare import Equalised
from calibration.search.response import Response, rounded

_LIMITS = np.geomspace(0.06, 0.9, 7)  # of the largest value: what one scale for all may cover
_FACTORS = np.geomspace(1 / 12, 12, 11)
_SHIFTS = (-1.0, 0.0, 1.5)
_WORST = 0.95  # of the damage is in the channels that other factors are tried for
# A constant is taken off in the bias of the layer behind, but not at a map's border, where padding is zero. There it adds up.
_BORDER = 10.0
_LEAST_BACK = 1e-3  # a scale is greater than zero
_UNSEEN = 0.25  # how much larger the largest value of a channel may be than it was on these images
_WHITE = 0.3  # of the damage as noise, added to that of errors that repeat: few images say little of a single channel


def equalise(response: Response, before: str, border: float) -> tuple[Equalised, float]:
    """(the best for `response` of a depthwise layer's input, its damage). `before`: the layer that makes `response.source`;
    `border`: see `border_of`."""
    found = [equalised_at(response, before, border, float(limit)) for limit in _limits(response)]
    return min(found, key=lambda each: each[1])


def equalised_at(response: Response, before: str, border: float, limit: float) -> tuple[Equalised, float]:
    """The same with the largest value that is not cut off given."""
    fit = _Fit(response, limit, border)
    return Equalised(before, Range(fit.scale), *(fit.found[:, i].numpy().copy() for i in range(4))), fit.damage


def border_of(network: LayerGraph, layer: Layer) -> float:
    """The share of pixels for which a depthwise `layer` sees padding."""
    return min(1.0, 4 * (layer.kernel // 2) / network.shapes[layer.input][2])


def _limits(response: Response) -> np.ndarray:
    occurring = response.outputs().abs() * (response.shares > 0).unsqueeze(2)
    return np.asarray(float(occurring.max()) * _LIMITS)


class _Fit:
    """Factors for one limit."""

    def __init__(self, response: Response, limit: float, border: float) -> None:
        self.response, self.limit = response, limit
        self.scale = float(half_precision(np.float64(limit / LEVELS)))
        shares, powers = response.shares, response.powers
        self._live = (shares > 0).unsqueeze(2)
        self._wanted = response.outputs() * self._live
        centre = torch.eye(shares.shape[1]) - shares[:, None, :]  # takes a channel's mean off
        repeated = torch.einsum("nck,ncl->ckl", response.slopes, response.slopes)
        self._form = centre.transpose(1, 2) @ repeated @ centre + torch.diag_embed(shares * powers[:, None] * _WHITE)
        seen = response.values.masked_fill(~self._live, -torch.inf).amax((1, 2))
        self._largest = seen + _UNSEEN * seen.abs()
        self._constant = _BORDER * border * powers
        everything = torch.arange(len(shares))
        ones, zeros = torch.ones(len(shares)), torch.zeros(len(shares))
        costs, self.found, self._errors = self._tried(everything, ones, zeros)
        order = costs.argsort(descending=True)
        worst = order[: int((costs[order].cumsum(0) < _WORST * costs.sum()).sum()) + 1]
        for factor in _FACTORS:
            for shift in _SHIFTS:
                self._improve(worst, costs, torch.full((len(worst),), factor), torch.full((len(worst),), shift))
        for step in (1.28, 1.13):
            for by in (1 / step, 1.0, step):
                for move in (-1.5, 0.0, 1.5):
                    found = self.found[worst]
                    self._improve(worst, costs, found[:, 0] * by, found[:, 1] + move * (step - 1))
        self.damage = response.damage(self._errors)

    def _improve(self, rows: Tensor, costs: Tensor, factor: Tensor, shift: Tensor) -> None:
        found_costs, found, errors = self._tried(rows, factor, shift)
        # What is made larger must not be cut off, on images not seen either.
        fits = self.response.activation(factor * self._largest[rows] + shift) <= self.limit
        better = (found_costs < costs[rows]) & (fits | ((factor <= 1) & (shift <= 0)))
        at = rows[better]
        costs[at], self.found[at], self._errors[at] = found_costs[better], found[better], errors[better]

    def _tried(self, rows: Tensor, factor: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(costs, [factor, shift, back, error], errors [rows, BINS, POINTS]) with the best `back`."""
        response, live = self.response, self._live[rows]
        shares, powers = response.shares[rows], response.powers[rows]
        inside = response.activation(factor[:, None, None] * response.values[rows] + shift[:, None, None])
        got, wanted = rounded(inside, self.scale) * live, self._wanted[rows]
        form, constant = self._form[rows], self._constant[rows]

        def product(one: Tensor, other: Tensor) -> Tensor:
            a, b = one.mean(2), other.mean(2)
            white = (((one * other).mean(2) - a * b) * shares).sum(1) * powers
            means = (a * shares).sum(1) * (b * shares).sum(1) * constant
            return torch.einsum("ck,ckl,cl->c", a, form, b) + white + means

        # By least squares of the values: by those of the logits it would fit the few images.
        back = ((got * wanted).mean(2) * shares).sum(1) / (got.square().mean(2) * shares).sum(1).clamp_min(1e-20)
        back = torch.where(back > _LEAST_BACK, back, 1.0)
        errors = back[:, None, None] * got - wanted
        mean = (errors.mean(2) * shares).sum(1)
        return product(errors, errors), torch.stack([factor, shift, back, mean], 1), errors
