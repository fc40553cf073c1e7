"""One Double-DQN update as in the course's programs, computed in NumPy with float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray

from toolkit.algorithms import DoubleDQN

Arrays = list[NDArray[np.float64]]


def compute_activations(layers: Arrays, inputs: NDArray[np.float64]) -> Arrays:
    """Return the activations of a network with ReLU between its layers, from its inputs to its outputs."""
    activations = [inputs]
    for number in range(0, len(layers), 2):
        outputs = activations[-1] @ layers[number].T + layers[number + 1]
        activations.append(outputs if number == len(layers) - 2 else np.maximum(outputs, 0))
    return activations


def compute_gradients(layers: Arrays, activations: Arrays, slopes: NDArray[np.float64]) -> Arrays:
    """Return the gradient of every layer; `slopes` is the gradient of the outputs."""
    gradients: Arrays = []
    for number in reversed(range(0, len(layers), 2)):
        inputs = activations[number // 2]
        gradients = [slopes.T @ inputs, slopes.sum(axis=0), *gradients]
        slopes = (slopes @ layers[number]) * (inputs > 0)
    return gradients


def update_by_hand(model: DoubleDQN, batch: Any, eps: float) -> Arrays:
    """Return the layers of the online network after one minibatch: targets once, then Adam steps on the mean loss."""
    observations, next_observations, rewards, dones = (
        tensor.numpy().astype(np.float64)
        for tensor in (batch.observations, batch.next_observations, batch.rewards[:, 0], batch.dones[:, 0])
    )
    rows, actions = np.arange(len(rewards)), batch.actions.numpy()[:, 0]
    online, target = copy_layers(model.q_net), copy_layers(model.q_net_target)

    next_actions = compute_activations(online, next_observations)[-1].argmax(axis=1)
    next_values = compute_activations(target, next_observations)[-1][rows, next_actions]
    targets = compute_activations(online, observations)[-1]
    targets[rows, actions] = rewards + (1 - dones) * model.gamma * next_values

    means = [np.zeros_like(layer) for layer in online]
    squares = [np.zeros_like(layer) for layer in online]
    for step in range(1, model.n_epochs + 1):
        activations = compute_activations(online, observations)
        errors = activations[-1] - targets
        slopes = 2 * errors if model.loss == "mse" else np.clip(errors, -1, 1)
        # from the second pass on, the outputs of other actions have errors too, if all outputs count
        own_slopes = np.zeros_like(slopes)
        own_slopes[rows, actions] = slopes[rows, actions]
        slopes = slopes / slopes.size if model.loss_over_all_actions else own_slopes / len(rows)
        for number, gradient in enumerate(compute_gradients(online, activations, slopes)):
            means[number] = 0.9 * means[number] + 0.1 * gradient
            squares[number] = 0.999 * squares[number] + 0.001 * gradient**2
            momentum, scale = means[number] / (1 - 0.9**step), np.sqrt(squares[number] / (1 - 0.999**step))
            online[number] = online[number] - model.learning_rate * momentum / (scale + eps)
    return online


def copy_layers(network: th.nn.Module) -> Arrays:
    return [parameter.detach().numpy().astype(np.float64) for parameter in network.parameters()]
