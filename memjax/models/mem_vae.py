"""MEM-VAE: a variational autoencoder whose decoder reads memory slots. Without slots it is a VAE.

Li, Zhu and Zhang, Learning to generate with memory, ICML 2016.
"""

import math
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from memjax import distributions
from memjax.errors import InputError
from memjax.memory import Attention, ElementwiseMLP, SoftMemory
from memjax.nn import Axes, Dense, Hidden, batch_moments, normalise
from memjax.products import Precision
from memjax.types import Array, Batch, Generated, SetByProgram, Terms, idle_fields


@flax.struct.dataclass
class Encoding:
    """What the recognition network says of a batch, free of noise.

    Attributes:
        mean: `[B, D]` of q(z | x).
        log_variance: `[B, D]` of q(z | x).
        features: `[B, D]`, the last hidden layer.
        normalised: per hidden layer from the image up, `[B, D]` pre-activations after batch norm.
    """

    mean: Array
    log_variance: Array
    features: Array
    normalised: tuple[Array, ...]


@flax.struct.dataclass
class Layer:
    """One hidden layer of the decoder: h_g, h_a, h_m (None without slots) and its output."""

    generated: Array
    preferences: Array | None
    memory: Array | None
    output: Array


class MemVAE(nn.Module):
    """x -> hidden -> z -> hidden with memory -> x. Defaults are what gave the paper's numbers.

    Everything that is given per layer is given from the image up: the first entry belongs to the
    hidden layers next to x.

    Attributes:
        image_shape: (H, W, C) of the images; taken from the data set if None.
        hidden: units of the hidden layers, the same in both networks.
        latent: dimensions of z.
        slots: memory slots of each hidden layer of the decoder; none, or zeros, make it a VAE.
        attention: sigmoid (paper, Table 1) or softmax (its VIS-MEM-VAE).
        composition: elementwise_mlp (paper, Table 1) or sum (its VIS-MEM-VAE).
        rectify_composition: apply ReLU after the composition: True is the authors' code for both
            compositions, False the paper's text for the sum.
        slot_scale: standard deviation of the slots at the start.
        disabled: layers whose memory information is replaced by ones (paper, appendix C), or, where
            it is added, by zeros; of the sum the paper does not say.
        local_reconstruction: weight of the local reconstruction error of each hidden layer; none
            for a plain VAE.
        local_reduction: mean over units (authors' code) or sum over units (paper, section 4).
        local_noise: independent draws z anew for the local error (authors' code); shared takes
            the z of the bound.
        batch_norm: normalise the hidden layers of both networks.
        batch_norm_epsilon: added to the variance.
        batch_norm_momentum: of the moving averages.
        likelihood: bernoulli or gaussian (with a learned variance for each pixel).
        precision: of matrix products; set from `train.precision`.
        batch_axes: mapped axes that batch norm averages over; set by the training step.
    """

    image_shape: SetByProgram[tuple[int, int, int] | None] = None
    hidden: tuple[int, ...] = (500, 500)
    latent: int = 100
    slots: tuple[int, ...] = (70, 30)
    attention: Attention = "sigmoid"
    composition: Literal["elementwise_mlp", "sum"] = "elementwise_mlp"
    rectify_composition: bool = True
    slot_scale: float = 0.01
    disabled: tuple[int, ...] = ()
    local_reconstruction: tuple[float, ...] = (0.1, 0.1)
    local_reduction: Literal["mean", "sum"] = "mean"
    local_noise: Literal["independent", "shared"] = "independent"
    batch_norm: bool = True
    batch_norm_epsilon: float = 1e-10
    batch_norm_momentum: float = 0.99
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    precision: SetByProgram[Precision] = "float32"
    batch_axes: SetByProgram[Axes] = ()

    @property
    def idle_fields(self) -> dict[str, str]:
        """Fields without effect, and what would give them one."""
        of_slots = ("attention", "composition", "rectify_composition", "slot_scale", "disabled")
        return idle_fields(
            {
                "model.slots": (any(self.slots), of_slots),
                "weights in model.local_reconstruction": (
                    any(self.local_reconstruction),
                    ("local_reduction", "local_noise"),
                ),
                "model.batch_norm True": (self.batch_norm, ("batch_norm_momentum",)),
                # The local error is of normalised layers, whether or not the networks' are.
                "batch norm or weights in model.local_reconstruction": (
                    self.batch_norm or any(self.local_reconstruction),
                    ("batch_norm_epsilon",),
                ),
            }
        )

    def setup(self) -> None:
        self._check()
        depth = len(self.hidden)
        self.recognition = [self._hidden(units) for units in self.hidden]
        self.posterior_mean = Dense(self.latent, self.precision)
        self.posterior_log_variance = Dense(self.latent, self.precision)
        self.generative = [self._hidden(units) for units in self.hidden]
        self.memory = [
            SoftMemory(count, self.attention, self.slot_scale, self.precision) if count else None
            for count in self.slots or (0,) * depth
        ]
        self.compose = [
            ElementwiseMLP() if memory and self.composition == "elementwise_mlp" else None
            for memory in self.memory
        ]
        pixels = math.prod(self._image_shape)
        self.image_mean = Dense(pixels, self.precision)
        if self.likelihood == "gaussian":
            self.image_log_variance = Dense(pixels, self.precision)

    def encode(self, batch: Batch, train: bool) -> Encoding:
        """q(z | x) of each image, and the layers below it."""
        h = batch.images.reshape(batch.images.shape[0], -1)
        normalised = []
        for layer in self.recognition:
            h, before = layer(h, train)
            normalised.append(before)
        return Encoding(
            self.posterior_mean(h), self.posterior_log_variance(h), h, tuple(normalised)
        )

    def terms(self, batch: Batch, encoding: Encoding, keys: Array, train: bool) -> Terms:
        """The Terms of one z for each example.

        The penalty belongs to training and is zero otherwise.

        Source: Li, Zhu and Zhang 2016, section 4; authors' code for the local error.
        """
        posterior = distributions.diagonal_normal(encoding.mean, encoding.log_variance)
        prior = distributions.standard_normal(encoding.mean.shape)
        z = self._draw(encoding, keys)
        layers = self._decode(z, train)
        penalty = jnp.zeros(z.shape[0])
        if train and any(self.local_reconstruction):
            penalty = self._local_error(encoding, layers, keys)
        kl = posterior.kl_divergence(prior)
        return Terms(
            log_likelihood=self._image_distribution(layers[0].output).log_prob(batch.images),
            log_prior=prior.log_prob(z),
            log_posterior=posterior.log_prob(z),
            log_score=jnp.zeros(z.shape[0]),
            kl=kl,
            penalty=penalty,
            diagnostics={"kl_latent": kl},
        )

    def reconstruct(self, batch: Batch, encoding: Encoding, keys: Array) -> Array:
        """Means `[B, H, W, C]` of p(x | z) at one z drawn from q(z | x)."""
        del batch
        return self._image_distribution(
            self._decode(self._draw(encoding, keys), False)[0].output
        ).mean()

    def generate(self, keys: Array, context: Array | None = None) -> Generated:
        """Images `[B, H, W, C]` of p(x | z) at z drawn from the prior; there is no context."""
        del context
        z = distributions.standard_noise(keys, self.latent)
        images = self._image_distribution(self._decode(z, False)[0].output)
        return Generated(images.mean(), distributions.draw_images(images, keys))

    def activations(self, batch: Batch, encoding: Encoding, keys: Array) -> dict[str, Array]:
        """Inner layers at one z: `features`, and per decoder layer i `h_g.i`, `h_a.i`, `h_m.i`.

        Layer 0 is next to x; `h_a` is `[B, M]`, the others `[B, D]`. Layers without slots have
        `h_g` alone.
        """
        del batch
        found = {"features": encoding.features}
        for i, layer in enumerate(self._decode(self._draw(encoding, keys), False)):
            named = {"h_g": layer.generated, "h_a": layer.preferences, "h_m": layer.memory}
            found |= {f"{name}.{i}": value for name, value in named.items() if value is not None}
        return found

    def slot_images(self, layer: int) -> Array:
        """Means `[M, H, W, C]` of p(x | .) of each slot alone, with nothing generated beside it.

        Args:
            layer: of the decoder, 0 next to x; its h_g is zero, and its h_m the slot.

        Raises:
            InputError: the layer is not there, or has no slots.

        Source: Li, Zhu and Zhang 2016, appendix D.
        """
        memory = self.memory[layer] if 0 <= layer < len(self.memory) else None
        if memory is None:
            raise InputError(f"layer: found {layer}, expected a hidden layer that has slots")
        slots = memory.variables["params"]["slots"]
        h = self._compose(layer, jnp.zeros_like(slots), slots)
        below = self._descend(h, layer, False)
        return self._image_distribution(below[0].output if below else h).mean()

    def _hidden(self, units: int) -> Hidden:
        return Hidden(
            units,
            batch_norm=self.batch_norm,
            axes=self.batch_axes,
            epsilon=self.batch_norm_epsilon,
            momentum=self.batch_norm_momentum,
            precision=self.precision,
        )

    def _draw(self, encoding: Encoding, keys: Array) -> Array:
        noise = distributions.standard_noise(keys, self.latent)
        return encoding.mean + jnp.exp(0.5 * encoding.log_variance) * noise

    def _decode(self, z: Array, train: bool, record: bool = True) -> tuple[Layer, ...]:
        """Hidden layers of the decoder, ordered from the image up."""
        return self._descend(z, len(self.hidden), train, record)

    def _descend(self, h: Array, top: int, train: bool, record: bool = True) -> tuple[Layer, ...]:
        """The hidden layers below layer `top`, whose output is h, ordered from the image up."""
        layers = []
        for i in reversed(range(top)):
            h_g, _ = self.generative[i](h, train, record)
            layer = self._with_memory(i, h_g)
            h = layer.output
            layers.append(layer)
        return tuple(reversed(layers))

    def _with_memory(self, i: int, h_g: Array) -> Layer:
        memory = self.memory[i]
        if memory is None:
            return Layer(h_g, None, None, h_g)
        preferences, h_m = memory(h_g)
        if i in self.disabled:
            h_m = jnp.full_like(h_m, 0.0 if self.composition == "sum" else 1.0)
        return Layer(h_g, preferences, h_m, self._compose(i, h_g, h_m))

    def _compose(self, i: int, h_g: Array, h_m: Array) -> Array:
        compose = self.compose[i]
        composed = h_g + h_m if compose is None else compose(h_g, h_m)
        return nn.relu(composed) if self.rectify_composition else composed

    @property
    def _image_shape(self) -> tuple[int, int, int]:
        if self.image_shape is None:
            raise InputError("model.image_shape: found None, expected (H, W, C)")
        return self.image_shape

    def _image_distribution(self, h: Array) -> Any:
        mean = self.image_mean(h).reshape(-1, *self._image_shape)
        if self.likelihood == "bernoulli":
            return distributions.bernoulli_images(mean)
        log_variance = self.image_log_variance(h).reshape(-1, *self._image_shape)
        return distributions.gaussian_images(mean, log_variance)

    def _local_error(self, encoding: Encoding, layers: tuple[Layer, ...], keys: Array) -> Array:
        """`[B]`: weighted squared differences of the two networks' normalised hidden layers."""
        if self.local_noise == "independent":
            other = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
            layers = self._decode(self._draw(encoding, other), True, record=False)
        error = jnp.zeros(encoding.mean.shape[0])
        for i, weight in enumerate(self.local_reconstruction):
            moments = batch_moments(layers[i].output, self.batch_axes)
            generated = normalise(layers[i].output, moments, self.batch_norm_epsilon)
            if "samples" in self.batch_axes:
                # The authors average the samples' activations before they square the difference.
                generated = lax.pmean(generated, "samples")
            recognised = self._normalised(encoding.normalised[i])
            reduce = jnp.mean if self.local_reduction == "mean" else jnp.sum
            error += weight * reduce(jnp.square(recognised - generated), axis=-1)
        return error

    def _normalised(self, h: Array) -> Array:
        if self.batch_norm:
            return h
        return normalise(h, batch_moments(h, self.batch_axes), self.batch_norm_epsilon)

    def _check(self) -> None:
        depth = len(self.hidden)
        if not self.hidden or min((*self.hidden, self.latent)) < 1:
            raise InputError(
                f"model.hidden, model.latent: found {self.hidden}, {self.latent}, "
                "expected positive sizes and at least one hidden layer"
            )
        for name in ("slots", "local_reconstruction"):
            values = getattr(self, name)
            if values and (len(values) != depth or not all(0 <= v < math.inf for v in values)):
                raise InputError(
                    f"model.{name}: found {values}, expected nothing or {depth} values of at "
                    "least 0, one per hidden layer"
                )
        with_slots = [i for i, count in enumerate(self.slots) if count]
        if any(i not in with_slots for i in self.disabled):
            raise InputError(
                f"model.disabled: found {self.disabled}, expected hidden layers that have slots, "
                f"of {tuple(with_slots)}"
            )
        for name in ("slot_scale", "batch_norm_epsilon"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise InputError(f"model.{name}: found {value}, expected at least 0")
        if not 0 <= self.batch_norm_momentum < 1:
            raise InputError(
                f"model.batch_norm_momentum: found {self.batch_norm_momentum}, expected at least "
                "0, less than 1"
            )
