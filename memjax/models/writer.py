"""The recurrent writer: T steps, each of which draws a z and adds to a canvas.

Griesemer, Adaptive variational memory encoding for recurrent data synthesis, 2017 (AVME). With
windows of attention it is DRAW: Gregor, Danihelka, Graves, Rezende and Wierstra 2015.
"""

import dataclasses
import math
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from memjax import distributions, windows
from memjax.errors import InputError
from memjax.memory import Attention, ElementwiseMLP, SoftMemory
from memjax.nn import Axes, Dense
from memjax.products import Precision
from memjax.recurrent import LSTMState, lstm
from memjax.types import Array, Batch, Generated, SetByProgram, Terms, idle_fields


@flax.struct.dataclass
class Encoding:
    """What stays the same over the steps, free of noise.

    Attributes:
        images: `[B, H, W, C]`.
        encoder: `[B, 4 U]`, the share of the image and of its label in the encoder's gates.
        decoder: `[B, 4 U]`, the share of the label in the decoder's gates; None without labels.
    """

    images: Array
    encoder: Array
    decoder: Array | None


@flax.struct.dataclass
class State:
    """What one step leaves to the next.

    Attributes:
        canvas: `[B, H, W, P]`, the logits, or means and log-variances, so far.
        encoder: of the encoder's LSTM.
        decoder: of the decoder's LSTM.
        output: of the LSTM that writes; None where a linear layer does.
    """

    canvas: Array
    encoder: LSTMState
    decoder: LSTMState
    output: LSTMState | None


@flax.struct.dataclass
class Step:
    """What one step says of its z; every array `[B]`, `[T, B]` after the scan."""

    log_prior: Array
    log_posterior: Array
    kl: Array


class Writer(nn.Module):
    """x, canvas -> encoder LSTM -> z_t -> decoder LSTM -> canvas, T times, then the canvas -> x.

    Each z_t is N(0, I) a priori. The paper's loss (equation 14) leaves the KL out; its code has
    it, and so has this model: without it, nothing ties what is sampled to what was learned.

    Attributes:
        image_shape: (H, W, C) of the images; taken from the data set if None.
        steps: T.
        latent: dimensions of each z_t.
        encoder_units: of the encoder's LSTM.
        decoder_units: of the decoder's LSTM.
        canvas_input: what the encoder sees beside the image: the `error` x - p(canvas) of the
            authors' code and of DRAW, or the `canvas` itself (equation 10).
        decoder_feedback: whether it sees the decoder's last hidden state too (equation 10), that
            of its first layer with either output, as in DRAW.
        output: what adds to the canvas: a `linear` layer on the decoder's hidden state, as in
            DRAW, or the hidden state of another `lstm` with a unit for each pixel, as in the
            authors' code, which bounds what is added to the first canvas to -T and T. Equation 13
            adds a hidden state too, and does not say of how many layers.
        attention: `none`, or `gaussian` windows that read the image and the canvas and write a
            patch, as in DRAW.
        read_size: N of the N x N window that reads.
        write_size: N of the one that writes; there must be a linear output.
        slots: memory slots that are read at each step, and composed with the decoder's hidden
            state in what is written; its own recurrence and the window of attention do not see
            them. 0 for none. Li, Zhu and Zhang 2016, section 6, name recurrent networks with
            memory as what may do better.
        slot_attention: see `memory.soft_attention`.
        num_classes: of a label that the encoder and the decoder see; 0 for none.
        initial_state: of all LSTMs and of the canvas: `zero` or `learned`.
        likelihood: bernoulli, or gaussian (with a learned variance for each pixel).
        rematerialise: keep nothing of a step but its state for the backward pass, and compute the
            rest again.
        precision: of matrix products; set from `train.precision`.
        batch_axes: of no consequence here.

    Source: equations 10 to 13, and 22 to 28 for labels. Left aside is that the authors' code takes
    mean and log-variance of z_t from two more LSTMs, which bound both to -1 and 1, and that it
    feeds back to the encoder what was added to the canvas last, not the decoder's first layer.
    """

    image_shape: SetByProgram[tuple[int, int, int] | None] = None
    steps: int = 12
    latent: int = 100
    encoder_units: int = 400
    decoder_units: int = 400
    canvas_input: Literal["error", "canvas"] = "error"
    decoder_feedback: bool = True
    output: Literal["linear", "lstm"] = "lstm"
    attention: Literal["none", "gaussian"] = "none"
    read_size: int = 2
    write_size: int = 5
    slots: int = 0
    slot_attention: Attention = "sigmoid"
    num_classes: int = 0
    initial_state: Literal["zero", "learned"] = "zero"
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    rematerialise: bool = False
    precision: SetByProgram[Precision] = "float32"
    batch_axes: SetByProgram[Axes] = ()

    @property
    def idle_fields(self) -> dict[str, str]:
        """Fields without effect, and what would give them one."""
        return idle_fields(
            {
                "model.attention gaussian": (
                    self.attention == "gaussian",
                    ("read_size", "write_size"),
                ),
                "model.slots": (self.slots > 0, ("slot_attention",)),
            }
        )

    def setup(self) -> None:
        self._check()
        encoder, decoder = 4 * self.encoder_units, 4 * self.decoder_units
        if self.attention == "none":
            self.encoder_of_image = self._without_bias(encoder)
        else:
            self.read_window = Dense(windows.NUM_PARAMETERS, self.precision)
            self.write_window = Dense(windows.NUM_PARAMETERS, self.precision)
        self.encoder_of_canvas = self._without_bias(encoder)
        self.encoder_of_encoder = Dense(encoder, self.precision)
        if self.decoder_feedback:
            self.encoder_of_decoder = self._without_bias(encoder)
        self.posterior = Dense(2 * self.latent, self.precision)
        self.decoder_of_latent = self._without_bias(decoder)
        self.decoder_of_decoder = Dense(decoder, self.precision)
        if self.num_classes:
            self.encoder_of_label = nn.Embed(self.num_classes, encoder)
            self.decoder_of_label = nn.Embed(self.num_classes, decoder)
        if self.slots:
            self.memory = SoftMemory(self.slots, self.slot_attention, precision=self.precision)
            self.compose = ElementwiseMLP()
        if self.output == "linear":
            self.output_layer = Dense(self._written, self.precision)
        else:
            self.output_of_decoder = self._without_bias(4 * self._written)
            self.output_of_output = Dense(4 * self._written, self.precision)
        if self.initial_state == "learned":
            self.initial = {
                name: self.param(f"initial_{name}", nn.initializers.zeros, shape)
                for name, shape in self._state_shapes().items()
            }

    # ---- the protocol of a model

    def encode(self, batch: Batch, train: bool) -> Encoding:
        """The image's and the label's share of all steps."""
        del train
        size = batch.images.shape[0]
        encoder = jnp.zeros((size, 4 * self.encoder_units))
        if self.attention == "none":
            encoder = self.encoder_of_image(batch.images.reshape(size, -1))
        if not self.num_classes:
            return Encoding(batch.images, encoder, None)
        if batch.labels is None:
            raise InputError(
                f"model.num_classes: found {self.num_classes} with images that have no labels, "
                "expected 0, or a data set with labels"
            )
        encoder += self.encoder_of_label(batch.labels)
        return Encoding(batch.images, encoder, self.decoder_of_label(batch.labels))

    def terms(self, batch: Batch, encoding: Encoding, keys: Array, train: bool) -> Terms:
        """The Terms of one z_1 .. z_T for each example.

        Source: Gregor et al. 2015, equations 9 to 12. `kl` is the sum of T closed forms.
        """
        del train
        state, said = self._infer(encoding, keys)
        kl = said.kl.sum(axis=0)
        return Terms(
            log_likelihood=self._image_distribution(state.canvas).log_prob(batch.images),
            log_prior=said.log_prior.sum(axis=0),
            log_posterior=said.log_posterior.sum(axis=0),
            log_score=jnp.zeros_like(kl),
            kl=kl,
            penalty=jnp.zeros_like(kl),
            diagnostics={"kl_latent": kl},
        )

    def reconstruct(self, batch: Batch, encoding: Encoding, keys: Array) -> Array:
        """Means `[B, H, W, C]` of p(x | z) at one sample of the posterior."""
        del batch
        return self._image_distribution(self._infer(encoding, keys)[0].canvas).mean()

    def generate(
        self, keys: Array, context: Array | None = None, labels: Array | None = None
    ) -> Generated:
        """Images `[B, H, W, C]` at z from the prior, and the means after each of the T steps.

        Args:
            keys: `[B]`.
            context: there is none.
            labels: `[B]`, what to write; drawn evenly where a model has classes and none is given.

        Raises:
            InputError: labels for a model without classes, of another number than the keys, or
                outside the classes.

        Source: Griesemer 2017, equations 19 to 21, and 26 to 28 with labels.
        """
        del context
        share = self._share_of_labels(keys, labels)

        def one(writer: Writer, state: State, noise: Array) -> tuple[State, Array]:
            state = writer._write(state, noise, share)
            return state, writer._image_distribution(state.canvas).mean()

        last, canvases = self._scan(one)(self, self._initial(keys.shape[0]), self._noise(keys))
        draws = distributions.draw_images(self._image_distribution(last.canvas), keys)
        return Generated(canvases[-1], draws, canvases)

    def activations(self, batch: Batch, encoding: Encoding, keys: Array) -> dict[str, Array]:
        """`features`, the encoder's last hidden state, `[B, U]`."""
        del batch
        return {"features": self._infer(encoding, keys)[0].encoder.hidden}

    # ---- one step

    def _infer(self, encoding: Encoding, keys: Array) -> tuple[State, Step]:
        """T steps with z_t from the posterior: the last state, and what each step says."""

        def one(writer: Writer, state: State, noise: Array) -> tuple[State, Step]:
            return writer._look_and_write(state, noise, encoding)

        initial = self._initial(encoding.images.shape[0])
        return self._scan(one)(self, initial, self._noise(keys))

    def _scan(self, one: Any) -> Any:
        if self.rematerialise:
            one = nn.remat(one, prevent_cse=False)  # a scan keeps the two passes apart by itself
        return nn.scan(one, variable_broadcast="params", split_rngs={"params": False})

    def _look_and_write(self, state: State, noise: Array, encoding: Encoding) -> tuple[State, Step]:
        gates = encoding.encoder + self.encoder_of_canvas(self._look(state, encoding.images))
        gates += self.encoder_of_encoder(state.encoder.hidden)
        if self.decoder_feedback:
            gates += self.encoder_of_decoder(state.decoder.hidden)
        encoder = lstm(gates, state.encoder.cell)
        mean, log_variance = jnp.split(self.posterior(encoder.hidden), 2, axis=-1)
        posterior = distributions.diagonal_normal(mean, log_variance)
        prior = distributions.standard_normal(mean.shape)
        z = mean + jnp.exp(0.5 * log_variance) * noise
        said = Step(prior.log_prob(z), posterior.log_prob(z), posterior.kl_divergence(prior))
        state = dataclasses.replace(state, encoder=encoder)
        return self._write(state, z, encoding.decoder), said

    def _look(self, state: State, images: Array) -> Array:
        """What the encoder sees of the canvas, and of the image where it has not seen it whole."""
        beside = state.canvas
        if self.canvas_input == "error":
            beside = images - self._image_distribution(state.canvas).mean()
        if self.attention == "gaussian":
            window = self._window(self.read_window, state.decoder, self.read_size)
            beside = windows.read(window, jnp.concatenate([images, beside], axis=-1))
        return beside.reshape(beside.shape[0], -1)

    def _write(self, state: State, z: Array, label: Array | None) -> State:
        gates = self.decoder_of_latent(z) + self.decoder_of_decoder(state.decoder.hidden)
        decoder = lstm(gates if label is None else gates + label, state.decoder.cell)
        hidden = decoder.hidden
        if self.slots:
            _, remembered = self.memory(hidden)
            hidden = self.compose(hidden, remembered)
        output = None
        if self.output == "linear":
            written = self.output_layer(hidden)
        else:
            assert state.output is not None, "made by _initial"
            of_output = self.output_of_output(state.output.hidden)
            output = lstm(self.output_of_decoder(hidden) + of_output, state.output.cell)
            written = output.hidden
        return State(
            canvas=state.canvas + self._on_canvas(written, decoder),
            encoder=state.encoder,
            decoder=decoder,
            output=output,
        )

    def _on_canvas(self, written: Array, decoder: LSTMState) -> Array:
        if self.attention == "none":
            return written.reshape(-1, *self._canvas_shape)
        size = self.write_size
        patch = written.reshape(-1, size, size, self._canvas_shape[-1])
        return windows.write(self._window(self.write_window, decoder, size), patch)

    def _window(self, layer: Dense, decoder: LSTMState, size: int) -> windows.Window:
        return windows.window(layer(decoder.hidden), size, *self._canvas_shape[:2])

    # ---- shapes, starts, noise

    def _noise(self, keys: Array) -> Array:
        """Standard normal `[T, B, D]`; that of an example and a step depends on neither size."""
        steps = jnp.arange(self.steps)
        of_steps = jax.vmap(lambda t: jax.vmap(lambda key: jax.random.fold_in(key, t))(keys))(steps)
        return jax.vmap(lambda of_step: distributions.standard_noise(of_step, self.latent))(
            of_steps
        )

    def _initial(self, size: int) -> State:
        if self.initial_state == "learned":
            start = {
                name: jnp.broadcast_to(value, (size, *value.shape))
                for name, value in self.initial.items()
            }
        else:
            shapes = self._state_shapes().items()
            start = {name: jnp.zeros((size, *shape)) for name, shape in shapes}
        output = None
        if self.output == "lstm":
            output = LSTMState(start["output_hidden"], start["output_cell"])
        return State(
            canvas=start["canvas"],
            encoder=LSTMState(start["encoder_hidden"], start["encoder_cell"]),
            decoder=LSTMState(start["decoder_hidden"], start["decoder_cell"]),
            output=output,
        )

    def _state_shapes(self) -> dict[str, tuple[int, ...]]:
        units = {"encoder": self.encoder_units, "decoder": self.decoder_units}
        if self.output == "lstm":
            units["output"] = self._written
        shapes: dict[str, tuple[int, ...]] = {"canvas": self._canvas_shape}
        for name, count in units.items():
            shapes |= {f"{name}_hidden": (count,), f"{name}_cell": (count,)}
        return shapes

    def _share_of_labels(self, keys: Array, labels: Array | None) -> Array | None:
        if not self.num_classes:
            if labels is not None:
                raise InputError("labels: found some for a model without classes, expected None")
            return None
        if labels is None:
            drawn = jax.vmap(lambda key: jax.random.fold_in(key, self.steps))(keys)
            labels = jax.vmap(lambda key: jax.random.randint(key, (), 0, self.num_classes))(drawn)
        else:
            self._check_labels(labels, len(keys))
        return self.decoder_of_label(labels)

    def _check_labels(self, labels: Array, count: int) -> None:
        if labels.shape != (count,):
            raise InputError(
                f"labels: found the shape {labels.shape}, expected ({count},), one for each sample"
            )
        if isinstance(labels, jax.core.Tracer):  # without values yet
            return
        for label in labels.tolist():
            if label not in range(self.num_classes):
                raise InputError(f"labels: found {label}, expected 0 to {self.num_classes - 1}")

    def _image_distribution(self, canvas: Array) -> Any:
        if self.likelihood == "bernoulli":
            return distributions.bernoulli_images(canvas)
        return distributions.gaussian_images(*jnp.split(canvas, 2, axis=-1))

    def _without_bias(self, units: int) -> Dense:
        return Dense(units, self.precision, use_bias=False)

    @property
    def _image_shape(self) -> tuple[int, int, int]:
        if self.image_shape is None:
            raise InputError("model.image_shape: found None, expected (H, W, C)")
        return self.image_shape

    @property
    def _canvas_shape(self) -> tuple[int, int, int]:
        """Of a canvas: its last axis holds the parameters of a pixel's distribution."""
        height, width, channels = self._image_shape
        return height, width, channels * (2 if self.likelihood == "gaussian" else 1)

    @property
    def _written(self) -> int:
        """Numbers that a step writes."""
        if self.attention == "none":
            return math.prod(self._canvas_shape)
        return self.write_size**2 * self._canvas_shape[-1]

    def _check(self) -> None:
        at_least_one = ("steps", "latent", "encoder_units", "decoder_units")
        for name in (*at_least_one, "read_size", "write_size"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"model.{name}: found {value}, expected at least 1")
        for name in ("slots", "num_classes"):
            if (value := getattr(self, name)) < 0:
                raise InputError(f"model.{name}: found {value}, expected at least 0")
        if self.attention == "none":
            return
        longest = min(self._image_shape[:2])
        for name in ("read_size", "write_size"):
            if (value := getattr(self, name)) > longest:
                raise InputError(
                    f"model.{name}: found {value}, expected 1 to {longest}, the image's shorter "
                    "side"
                )
        if self.output == "lstm":
            raise InputError(
                "model.output: found lstm with attention, expected linear: a window writes what "
                "one layer gives it"
            )
