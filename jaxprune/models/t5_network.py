"""The network of T5: an encoder that reads a sequence, a decoder that writes one.

Raffel et al., 2019, https://arxiv.org/abs/1910.10683. Positions are told by a bias of
attention that all blocks of a stack share; each sublayer is normalised first (only
scaled, without a mean), and scores are not divided by the root of their length. There
is no dropout, in training either. What prunes, reads and writes it is in `t5`.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxprune.models import blocks, cache, encoder
from jaxprune.models.relative_position import relative_buckets
from jaxprune.models.text import Seq2Seq, decoder_token_mask, token_mask

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Depth and width of a network; those of T5-base by default.

    Attributes:
        vocab_size: number of words.
        hidden_size: width of what passes from block to block (`d_model`).
        head_size: width of an attention head (`d_kv`).
        intermediate_size: width inside the MLP of a block (`d_ff`).
        num_encoder_layers: blocks of the encoder.
        num_decoder_layers: blocks of the decoder.
        num_heads: attention heads of a block.
        num_buckets: of relative positions, see `relative_position`.
        max_distance: positions that far apart are in one bucket.
        norm_epsilon: added to the mean square in norms.
        activation: a key of `encoder.ACTIVATIONS`.
        gated: whether the MLP multiplies the activation with a second linear map.
        tied_head: whether logits come from the embedding of words.
        scaled_head: whether logits are divided by the root of `hidden_size`.
        pad_id: what is written after the end.
        end_id: the token that ends what is written.
        start_id: the token before the first that is written.
        encoder_adapters: blocks of the encoder that end in a linear map.
        decoder_adapters: blocks of the decoder that end in a linear map.
    """

    vocab_size: int = 32128
    hidden_size: int = 768
    head_size: int = 64
    intermediate_size: int = 3072
    num_encoder_layers: int = 12
    num_decoder_layers: int = 12
    num_heads: int = 12
    num_buckets: int = 32
    max_distance: int = 128
    norm_epsilon: float = 1e-6
    activation: str = "relu"
    gated: bool = False
    tied_head: bool = True
    scaled_head: bool = True
    pad_id: int = 0
    end_id: int = 1
    start_id: int = 0
    encoder_adapters: tuple[int, ...] = ()
    decoder_adapters: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Checks that the sizes agree."""
        for depth in (self.num_encoder_layers, self.num_decoder_layers):
            encoder.check_sizes(
                depth, self.num_heads * self.head_size, self.num_heads, self.activation
            )
        for name in ("pad_id", "end_id", "start_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ValueError(
                    f"{name}={getattr(self, name)} is not a token of "
                    f"vocab_size={self.vocab_size}"
                )
        relative_buckets(0, self.num_buckets, self.max_distance, both_ways=True)


def base_config(**changes: Any) -> T5Config:
    """Returns T5-base: twice 12 blocks of width 768."""
    return T5Config(**changes)


def small_config(**changes: Any) -> T5Config:
    """Returns T5-small: twice 6 blocks of width 512."""
    sizes: dict[str, Any] = {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_encoder_layers": 6,
        "num_decoder_layers": 6,
        "num_heads": 8,
    }
    return T5Config(**sizes | changes)


def tiny_config(**changes: Any) -> T5Config:
    """Returns a network for demonstrations and tests: twice 4 blocks of width 64."""
    sizes: dict[str, Any] = {
        "vocab_size": 100,
        "hidden_size": 64,
        "head_size": 16,
        "intermediate_size": 128,
        "num_encoder_layers": 4,
        "num_decoder_layers": 4,
        "num_heads": 4,
    }
    return T5Config(**sizes | changes)


def _norm(config: T5Config, name: str) -> nn.RMSNorm:
    return nn.RMSNorm(epsilon=config.norm_epsilon, name=name)


class Attention(nn.Module):
    """Positions attend to those of a source, which may be themselves.

    With `step`, one position at a time, the keys and values of a sequence are kept in
    the collection `cache`, `[B, S, H, D]` each: those of a growing sequence are written
    at `step`, those of a source that does not change are computed once.
    """

    config: T5Config

    @nn.compact
    def __call__(
        self,
        x: Array,
        mask: Array,
        bias: Array | None = None,
        source: Array | None = None,
        step: Array | None = None,
    ) -> Array:
        """Maps `[B, T, D]` to the same.

        Args:
            x: `[B, T, D]`, one position if there is a step.
            mask: `[B or 1, 1, T or 1, S]` boolean, which positions are attended to.
            bias: `[1, H, T, S]`, added to the scores.
            source: `[B, S, D]` what is attended to; `x` or what is cached by default.
            step: number of the position, to go on from the cache.
        """
        config = self.config

        def projected(name: str, of: Array) -> Array:
            width = config.num_heads * config.head_size
            y = nn.Dense(width, use_bias=False, name=name)(of)
            return y.reshape(*of.shape[:2], config.num_heads, config.head_size)

        def cached(name: str, of: Array) -> Array:
            if step is None:
                return projected(name, of)
            if source is not None:
                return self.variable(
                    "cache", f"source_{name}", projected, name, of
                ).value
            new = projected(name, of)
            return cache.write(self, f"cached_{name}", new, mask.shape[-1], step)

        query = projected("query", x)
        of = x if source is None else source
        key, value = cached("key", of), cached("value", of)
        y = jax.nn.dot_product_attention(
            query, key, value, bias=bias, mask=mask, scale=1.0
        )
        y = y.reshape(*x.shape[:2], config.num_heads * config.head_size)
        return nn.Dense(config.hidden_size, use_bias=False, name="output")(y)


class Mlp(nn.Module):
    """Two linear layers with a nonlinearity between, at each position."""

    config: T5Config

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[B, T, D]` to the same."""
        config = self.config
        size = config.intermediate_size
        y = nn.Dense(size, use_bias=False, name="hidden")(x)
        y = encoder.ACTIVATIONS[config.activation](y)
        if config.gated:
            y = y * nn.Dense(size, use_bias=False, name="gate")(x)
        encoder.sow(self, "features", y)
        return nn.Dense(config.hidden_size, use_bias=False, name="output")(y)


class Block(nn.Module):
    """Attention to the sequence itself, to a source if there is one, and MLP."""

    config: T5Config
    adapter: bool = False

    @nn.compact
    def __call__(
        self,
        x: Array,
        mask: Array,
        bias: Array,
        source: tuple[Array, Array] | None,
        step: Array | None,
    ) -> Array:
        """Maps `[B, T, D]` to the same; `source` with its mask, see `Attention`."""
        config = self.config
        y = _norm(config, "self_attention_norm")(x)
        x = x + Attention(config, name="self_attention")(y, mask, bias, step=step)
        if source is not None:
            y = _norm(config, "cross_attention_norm")(x)
            memory, memory_mask = source
            attention = Attention(config, name="cross_attention")
            x = x + attention(y, memory_mask, source=memory, step=step)
        y = _norm(config, "mlp_norm")(x)
        x = x + Mlp(config, name="mlp")(y)
        encoder.sow(self, "total", x)
        return nn.Dense(config.hidden_size, name="adapter")(x) if self.adapter else x


class Stack(nn.Module):
    """Blocks, the bias of positions that they share, and a norm after the last.

    Attributes:
        config: of the network.
        depth: number of blocks.
        both_ways: whether positions attend to what comes after them.
        adapters: blocks that end in a linear map.
        scan: see `jaxprune.models.blocks`.
    """

    config: T5Config
    depth: int
    both_ways: bool
    adapters: tuple[int, ...] = ()
    scan: bool = False

    @nn.compact
    def __call__(
        self,
        x: Array,
        mask: Array,
        source: tuple[Array, Array] | None = None,
        step: Array | None = None,
    ) -> Array:
        """Maps `[B, T, D]` to the same; `source` with its mask, see `Attention`."""
        config = self.config
        position = jnp.arange(mask.shape[-1])
        attending = position if step is None else step[None]
        buckets = relative_buckets(
            position[None] - attending[:, None],
            config.num_buckets,
            config.max_distance,
            both_ways=self.both_ways,
        )
        biases = nn.Embed(config.num_buckets, config.num_heads, name="relative_bias")
        entered = (x, mask, biases(buckets).transpose(2, 0, 1)[None], source, step)
        encoder.sow(self, "entered", entered)
        x = blocks.run(
            lambda **options: Block(config, **options),
            self.depth,
            *entered,
            scan=self.scan,
            adapters=self.adapters,
        )
        return _norm(config, "norm")(x)


class T5(nn.Module):
    """Maps `Seq2Seq` to logits `[B, T, vocab_size]` of what is to be written."""

    config: T5Config
    scan: bool = False

    def setup(self) -> None:
        """Makes the parts that reading and writing share."""
        config = self.config
        self.embedding = nn.Embed(config.vocab_size, config.hidden_size)
        self.encoder = Stack(
            config,
            config.num_encoder_layers,
            True,
            config.encoder_adapters,
            self.scan,
        )
        self.decoder = Stack(
            config,
            config.num_decoder_layers,
            False,
            config.decoder_adapters,
            self.scan,
        )
        if not config.tied_head:
            self.head = nn.Dense(config.vocab_size, use_bias=False)

    def __call__(self, batch: Seq2Seq) -> Array:
        """Returns the logits of each position, given what was written before it."""
        mask = jnp.asarray(token_mask(batch))
        source = self.encode(jnp.asarray(batch.token_ids), mask)
        length = batch.decoder_ids.shape[1]
        before = jnp.tril(jnp.ones((length, length), bool))
        x = self.decoder(
            self.embedding(batch.decoder_ids),
            before[None, None] & decoder_token_mask(batch)[:, None, None],
            (source, mask[:, None, None]),
        )
        return self._logits(x)

    def encode(self, token_ids: Array, mask: Array) -> Array:
        """Returns what the encoder makes of a sequence, `[B, S, D]`.

        Args:
            token_ids: `[B, S]` int32.
            mask: `[B, S]` boolean, False for padding.
        """
        return self.encoder(self.embedding(token_ids), mask[:, None, None])

    def write(
        self, token_ids: Array, step: Array, source: Array, mask: Array, length: int
    ) -> Array:
        """Returns logits `[B, vocab_size]` of the next token, going on from the cache.

        Args:
            token_ids: `[B]` int32, the token written last; `start_id` at first.
            step: `[]` int32, how many were written before it.
            source: `[B, S, D]` from `encode`.
            mask: `[B, S]` boolean, False for padding.
            length: how many tokens the cache has room for.
        """
        x = self.decoder(
            self.embedding(token_ids[:, None]),
            (jnp.arange(length) <= step)[None, None, None],
            (source, mask[:, None, None]),
            step,
        )
        return self._logits(x)[:, 0]

    def _logits(self, x: Array) -> Array:
        if self.config.scaled_head:
            x = x * self.config.hidden_size**-0.5
        return self.embedding.attend(x) if self.config.tied_head else self.head(x)
