"""One Double-DQN update of the course's programs, in float64 and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray

from toolkit.algorithms import DoubleDQN

Arrays = list[NDArray[np.float64]]


def forward(layers: Arrays, inputs: NDArray[np.float64]) -> Arrays:
    """Return the activations of a network with ReLU between its layers, its inputs first and its outputs last."""
    activations = [inputs]
    for number in range(0, len(layers), 2):
        outputs = activations[-1] @ layers[number].T + layers[number + 1]
        activations.append(outputs if number == len(layers) - 2 else np.maximum(outputs, 0))
    return activations


def gradients_of(layers: Arrays, activations: Arrays, slopes: NDArray[np.float64]) -> Arrays:
    """Return the gradient of every layer, where `slopes` is that of the outputs."""
    gradients: Arrays = []
    for number in reversed(range(0, len(layers), 2)):
        inputs = activations[number // 2]
        gradients = [slopes.T @ inputs, slopes.sum(axis=0), *gradients]
        slopes = (slopes @ layers[number]) * (inputs > 0)
    return gradients


def updated_by_hand(model: DoubleDQN, batch: Any, eps: float) -> Arrays:
    """Return the online network after one minibatch: targets once, then Adam steps on the mean loss."""
    observations, next_observations, rewards, dones = (
        tensor.numpy().astype(np.float64)
        for tensor in (batch.observations, batch.next_observations, batch.rewards[:, 0], batch.dones[:, 0])
    )
    rows, actions = np.arange(len(rewards)), batch.actions.numpy()[:, 0]
    online, target = layers_of(model.q_net), layers_of(model.q_net_target)

    chosen = forward(online, next_observations)[-1].argmax(axis=1)
    next_values = forward(target, next_observations)[-1][rows, chosen]
    targets = forward(online, observations)[-1]
    targets[rows, actions] = rewards + (1 - dones) * model.gamma * next_values

    first = [np.zeros_like(layer) for layer in online]
    second = [np.zeros_like(layer) for layer in online]
    for step in range(1, model.n_epochs + 1):
        activations = forward(online, observations)
        errors = activations[-1] - targets
        slopes = 2 * errors if model.loss == "mse" else np.clip(errors, -1, 1)
        # the outputs of actions not taken have an error from the second pass on, when all outputs count
        taken = np.zeros_like(slopes)
        taken[rows, actions] = slopes[rows, actions]
        slopes = slopes / slopes.size if model.loss_over_all_actions else taken / len(rows)
        for number, gradient in enumerate(gradients_of(online, activations, slopes)):
            first[number] = 0.9 * first[number] + 0.1 * gradient
            second[number] = 0.999 * second[number] + 0.001 * gradient**2
            momentum, scale = first[number] / (1 - 0.9**step), np.sqrt(second[number] / (1 - 0.999**step))
            online[number] = online[number] - model.learning_rate * momentum / (scale + eps)
    return online


def layers_of(network: th.nn.Module) -> Arrays:
    return [parameter.detach().numpy().astype(np.float64) for parameter in network.parameters()]
