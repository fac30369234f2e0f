"""The recurrent writer as a Python loop over numpy arrays in float64."""

from typing import Any

import numpy as np

from memjax.models.writer import Writer

Params = dict[str, Any]
Pair = tuple[np.ndarray, np.ndarray]  # hidden and cell state


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def dense(params: Params, x: np.ndarray) -> np.ndarray:
    return x @ np.asarray(params["kernel"], np.float64) + np.asarray(params.get("bias", 0.0))


def cell(gates: np.ndarray, before: np.ndarray) -> Pair:
    entering, kept, candidate, shown = np.split(gates, 4, axis=-1)
    after = sigmoid(kept) * before + sigmoid(entering) * np.tanh(candidate)
    return sigmoid(shown) * np.tanh(after), after


def zeros(size: int, units: int) -> Pair:
    return np.zeros((size, units)), np.zeros((size, units))


def write(model: Writer, params: Params, z: np.ndarray, decoder: Pair, output: Pair) -> Any:
    """What one step adds to the canvas `[B, pixels]`, and the states after it."""
    gates = dense(params["decoder_of_latent"], z) + dense(params["decoder_of_decoder"], decoder[0])
    decoder = cell(gates, decoder[1])
    if model.output == "linear":
        return dense(params["output_layer"], decoder[0]), decoder, output
    of_output = dense(params["output_of_output"], output[0])
    output = cell(dense(params["output_of_decoder"], decoder[0]) + of_output, output[1])
    return output[0], decoder, output


def run(model: Writer, params: Params, images: np.ndarray, noise: np.ndarray) -> dict[str, Any]:
    """T steps without windows, labels or slots.

    Args:
        model: with a Bernoulli likelihood.
        params: of it.
        images: `[B, H, W, C]`.
        noise: `[T, B, D]`.
    """
    size = len(images)
    x = images.reshape(size, -1).astype(np.float64)
    canvas = np.zeros_like(x)
    encoder, decoder = zeros(size, model.encoder_units), zeros(size, model.decoder_units)
    output = zeros(size, x.shape[1])
    said: dict[str, Any] = {"log_prior": 0.0, "log_posterior": 0.0, "kl": 0.0, "writes": []}
    for epsilon in noise.astype(np.float64):
        beside = x - sigmoid(canvas) if model.canvas_input == "error" else canvas
        gates = dense(params["encoder_of_image"], x) + dense(params["encoder_of_canvas"], beside)
        gates += dense(params["encoder_of_encoder"], encoder[0])
        if model.decoder_feedback:
            gates += dense(params["encoder_of_decoder"], decoder[0])
        encoder = cell(gates, encoder[1])
        mean, log_variance = np.split(dense(params["posterior"], encoder[0]), 2, axis=-1)
        z = mean + np.exp(log_variance / 2) * epsilon
        constant = np.log(2 * np.pi)
        said["log_prior"] += -0.5 * (z**2 + constant).sum(axis=-1)
        said["log_posterior"] += -0.5 * (epsilon**2 + log_variance + constant).sum(axis=-1)
        said["kl"] += 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(axis=-1)
        written, decoder, output = write(model, params, z, decoder, output)
        said["writes"].append(written)
        canvas = canvas + written
    said["log_likelihood"] = (x * canvas - np.logaddexp(canvas, 0)).sum(axis=-1)
    return said | {"canvas": canvas, "features": encoder[0]}
