"""Noisy linear layers and the dueling head for distributions, against NumPy."""

from __future__ import annotations

import numpy as np
import torch as th
from torch import nn

from toolkit.algorithms.heads import DistributionalDuelingHead, NoisyLinear, draw_noise, make_layers_noisy


def to_numpy(*tensors: th.Tensor) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    return [tensor.detach().numpy().astype(np.float64) for tensor in tensors]


def test_noisy_layer_matches_equations_of_paper_in_float64() -> None:
    th.manual_seed(0)
    layer, inputs = NoisyLinear(6, 4), th.randn(5, 6)
    nn.init.uniform_(layer.weight_sigma)
    nn.init.uniform_(layer.bias_sigma)
    th.manual_seed(1)
    with draw_noise(layer):
        outputs = layer(inputs)
    th.manual_seed(1)
    (drawn,) = to_numpy(th.randn(10))
    noise = np.sign(drawn) * np.sqrt(np.abs(drawn))
    weight, bias, weight_sigma, bias_sigma, x = to_numpy(
        layer.weight, layer.bias, layer.weight_sigma, layer.bias_sigma, inputs
    )
    weight += weight_sigma * np.outer(noise[6:], noise[:6])
    np.testing.assert_allclose(outputs.detach(), x @ weight.T + bias + bias_sigma * noise[6:], atol=1e-5)


def test_noisy_layer_starts_as_in_paper() -> None:
    th.manual_seed(0)
    layer = NoisyLinear(100, 50)
    for means in (layer.weight, layer.bias):
        assert means.abs().max() <= 0.1
        assert means.std() > 0.04
    np.testing.assert_allclose(layer.weight_sigma.detach(), 0.05)
    np.testing.assert_allclose(layer.bias_sigma.detach(), 0.05)


def test_noise_is_shared_in_batch_and_new_in_each_draw() -> None:
    layer = NoisyLinear(6, 4)
    inputs = th.ones(3, 6)
    draws = []
    for _ in range(2):
        with draw_noise(layer):
            outputs = layer(inputs)
        assert th.equal(outputs[0], outputs[1])
        draws.append(outputs)
    assert not th.equal(*draws)


def test_layer_without_draw_computes_with_means() -> None:
    layer, inputs = NoisyLinear(6, 4), th.randn(3, 6)
    with draw_noise(layer):
        pass
    expected = nn.functional.linear(inputs, layer.weight, layer.bias)
    for mode in (True, False):
        assert th.equal(layer.train(mode)(inputs), expected)


def test_network_without_noisy_layers_draws_no_numbers() -> None:
    network, state = nn.Linear(2, 2), th.get_rng_state()
    with draw_noise(network):
        assert th.equal(th.get_rng_state(), state)


def test_layers_draw_independent_noise() -> None:
    layers = nn.Sequential(nn.Linear(5, 5), nn.Sequential(nn.Linear(5, 5)))
    make_layers_noisy(layers)
    noisy = [layer for layer in layers.modules() if isinstance(layer, NoisyLinear)]
    with draw_noise(layers):
        noise = [values for layer in noisy for values in layer.noise or ()]
    assert len(noise) == 4
    assert len({tuple(values.tolist()) for values in noise}) == 4


def test_distributional_dueling_head_centres_advantages_of_each_atom() -> None:
    th.manual_seed(0)
    head, features = DistributionalDuelingHead(8, 3, 5), th.randn(10, 8)
    x, w_value, b_value, w_advantage, b_advantage = to_numpy(features, *head.parameters())
    value = (x @ w_value.T + b_value)[:, None]
    advantage = (x @ w_advantage.T + b_advantage).reshape(10, 3, 5)
    expected = value + advantage - advantage.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(head(features).detach(), expected.reshape(10, 15), atol=1e-6)
