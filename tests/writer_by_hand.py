"""The recurrent writer as a Python loop over numpy arrays in float64."""

from typing import Any

import numpy as np

from memjax.models.writer import Writer

Params = dict[str, Any]
Pair = tuple[np.ndarray, np.ndarray]  # hidden and cell state
State = dict[str, Any]  # canvas, and the Pairs encoder, decoder and output


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def dense(params: Params, x: np.ndarray) -> np.ndarray:
    return x @ np.asarray(params["kernel"], np.float64) + np.asarray(params.get("bias", 0.0))


def cell(gates: np.ndarray, before: np.ndarray) -> Pair:
    entering, kept, candidate, shown = np.split(gates, 4, axis=-1)
    after = sigmoid(kept) * before + sigmoid(entering) * np.tanh(candidate)
    return sigmoid(shown) * np.tanh(after), after


def normal_log_prob(x: np.ndarray, mean: Any, log_variance: Any) -> np.ndarray:
    return -0.5 * ((x - mean) ** 2 / np.exp(log_variance) + log_variance + np.log(2 * np.pi))


# ---- windows: Gregor et al. 2015, equations 19 to 29, one example and one Gaussian at a time


def bank(centre: float, stride: float, variance: float, size: int, length: int) -> np.ndarray:
    """`[N, A]`."""
    pixels = np.arange(1, length + 1)
    means = [centre + (i - size / 2 - 0.5) * stride for i in range(1, size + 1)]
    rows = np.stack([np.exp(-((pixels - mean) ** 2) / (2 * variance)) for mean in means])
    return rows / rows.sum(axis=1, keepdims=True)


def window(five: np.ndarray, size: int, height: int, width: int) -> Any:
    """Filterbanks of rows and of columns, and the intensity, of one example."""
    x, y, log_variance, log_stride, log_intensity = five
    stride = (max(height, width) - 1) / max(size - 1, 1) * np.exp(log_stride)
    rows = bank((height + 1) / 2 * (y + 1), stride, np.exp(log_variance), size, height)
    columns = bank((width + 1) / 2 * (x + 1), stride, np.exp(log_variance), size, width)
    return rows, columns, np.exp(log_intensity)


def read(of_windows: np.ndarray, size: int, images: np.ndarray) -> np.ndarray:
    """Patches `[B, N, N, C]` of images `[B, H, W, C]`."""
    patches = []
    for five, image in zip(of_windows, images, strict=True):
        rows, columns, intensity = window(five, size, *image.shape[:2])
        channels = [intensity * rows @ one @ columns.T for one in np.moveaxis(image, -1, 0)]
        patches.append(np.stack(channels, axis=-1))
    return np.stack(patches)


def put(of_windows: np.ndarray, patches: np.ndarray, height: int, width: int) -> np.ndarray:
    """Images `[B, H, W, C]` with patches `[B, N, N, C]` in them."""
    images = []
    for five, patch in zip(of_windows, patches, strict=True):
        rows, columns, intensity = window(five, len(patch), height, width)
        channels = [rows.T @ one @ columns / intensity for one in np.moveaxis(patch, -1, 0)]
        images.append(np.stack(channels, axis=-1))
    return np.stack(images)


# ---- steps


def canvas_shape(model: Writer) -> tuple[int, int, int]:
    height, width, channels = model.image_shape or (0, 0, 0)
    return height, width, channels * (2 if model.likelihood == "gaussian" else 1)


def start(model: Writer, params: Params, size: int) -> State:
    height, width, channels = canvas_shape(model)
    units = {"encoder": model.encoder_units, "decoder": model.decoder_units}
    units["output"] = height * width * channels

    def of(name: str, *shape: int) -> np.ndarray:
        initial = np.asarray(params.get(f"initial_{name}", np.zeros(shape)), np.float64)
        return np.broadcast_to(initial, (size, *shape))

    pairs = {n: (of(f"{n}_hidden", count), of(f"{n}_cell", count)) for n, count in units.items()}
    return {"canvas": of("canvas", height, width, channels), **pairs}


def means(model: Writer, canvas: np.ndarray) -> np.ndarray:
    return sigmoid(canvas) if model.likelihood == "bernoulli" else np.split(canvas, 2, axis=-1)[0]


def label_share(params: Params, name: str, labels: np.ndarray | None) -> Any:
    return 0.0 if labels is None else np.asarray(params[name]["embedding"], np.float64)[labels]


def look(model: Writer, params: Params, x: np.ndarray, state: State, labels: Any) -> np.ndarray:
    """The gates of the encoder."""
    beside = x - means(model, state["canvas"]) if model.canvas_input == "error" else state["canvas"]
    gates = dense(params["encoder_of_encoder"], state["encoder"][0])
    if model.attention == "none":
        gates += dense(params["encoder_of_image"], x.reshape(len(x), -1))
    else:
        of_windows = dense(params["read_window"], state["decoder"][0])
        beside = read(of_windows, model.read_size, np.concatenate([x, beside], axis=-1))
    gates += dense(params["encoder_of_canvas"], beside.reshape(len(x), -1))
    if model.decoder_feedback:
        gates += dense(params["encoder_of_decoder"], state["decoder"][0])
    return gates + label_share(params, "encoder_of_label", labels)


def with_memory(params: Params, h: np.ndarray) -> np.ndarray:
    """What the slots make of a hidden state: the composition of the first paper."""
    memory = {name: np.asarray(leaf, np.float64) for name, leaf in params["memory"].items()}
    compose = {name: np.asarray(leaf, np.float64) for name, leaf in params["compose"].items()}
    m = sigmoid(h @ memory["slot_keys"] + memory["slot_bias"]) @ memory["slots"]
    linear, squashed = (
        w[0] + w[1] * m + w[2] * h + w[3] * h * m for w in (compose["a"], compose["c"])
    )
    return linear + compose["b"] * sigmoid(squashed)


def write(model: Writer, params: Params, z: np.ndarray, state: State, labels: Any = None) -> State:
    """One step of the decoder; `written` is what it adds to the canvas."""
    gates = dense(params["decoder_of_latent"], z)
    gates += dense(params["decoder_of_decoder"], state["decoder"][0])
    decoder = cell(gates + label_share(params, "decoder_of_label", labels), state["decoder"][1])
    hidden, output = decoder[0], state["output"]
    if model.slots:
        hidden = with_memory(params, hidden)
    if model.output == "linear":
        written = dense(params["output_layer"], hidden)
    else:
        of_output = dense(params["output_of_output"], output[0])
        output = cell(dense(params["output_of_decoder"], hidden) + of_output, output[1])
        written = output[0]
    height, width, channels = canvas_shape(model)
    if model.attention == "none":
        written = written.reshape(-1, height, width, channels)
    else:
        patches = written.reshape(-1, model.write_size, model.write_size, channels)
        written = put(dense(params["write_window"], decoder[0]), patches, height, width)
    canvas = state["canvas"] + written
    return state | {"canvas": canvas, "written": written, "decoder": decoder, "output": output}


def run(
    model: Writer, params: Params, images: np.ndarray, noise: np.ndarray, labels: Any = None
) -> dict[str, Any]:
    """T steps.

    Args:
        model: with sigmoid attention, if it has slots.
        params: of it.
        images: `[B, H, W, C]`.
        noise: `[T, B, D]`.
        labels: `[B]`, of a model with classes.
    """
    x, labels = images.astype(np.float64), labels if model.num_classes else None
    state = start(model, params, len(x))
    said: dict[str, Any] = {"log_prior": 0.0, "log_posterior": 0.0, "kl": 0.0, "writes": []}
    for epsilon in noise.astype(np.float64):
        encoder = cell(look(model, params, x, state, labels), state["encoder"][1])
        mean, log_variance = np.split(dense(params["posterior"], encoder[0]), 2, axis=-1)
        z = mean + np.exp(log_variance / 2) * epsilon
        said["log_prior"] += normal_log_prob(z, 0.0, 0.0).sum(axis=-1)
        said["log_posterior"] += normal_log_prob(z, mean, log_variance).sum(axis=-1)
        said["kl"] += 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(axis=-1)
        state = write(model, params, z, state | {"encoder": encoder}, labels)
        said["writes"].append(state["written"])
    canvas = state["canvas"]
    if model.likelihood == "bernoulli":
        of_pixels = x * canvas - np.logaddexp(canvas, 0)
    else:
        of_pixels = normal_log_prob(x, *np.split(canvas, 2, axis=-1))
    said["log_likelihood"] = of_pixels.sum(axis=(1, 2, 3))
    return said | {"canvas": canvas, "features": state["encoder"][0]}
