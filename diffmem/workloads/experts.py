"""The experts of a mixture-of-experts layer.

Shazeer et al., "Outrageously Large Neural Networks", ICLR 2017; Fedus et al.,
"Switch Transformers", JMLR 2022; shared experts: DeepSeek-AI, "DeepSeekMoE",
arXiv:2401.06066; experts on a narrow stream: NVIDIA, "Nemotron 3",
arXiv:2512.20848.
"""

import jax.numpy as jnp
import numpy as np
import pydantic
from jaxtyping import Array, ArrayLike, Float

from diffmem.workloads.attention import CONFIG, Count, CountOrNone


class Experts(pydantic.BaseModel):
  """The routed and shared experts of a mixture-of-experts layer.

  Attributes:
    count: routed experts of one layer.
    top_k: routed experts that each token visits.
    d_ff: hidden width of one routed expert.
    shared: experts that every token visits.
    shared_d_ff: hidden width of one shared expert; 0 for the routed one's.
    dense_layers: first layers that have a plain MLP in their place.
    every: of the layers after these, experts are in each `every`-th.
    latent_dim: width that routed experts work on, with a projection from and
      to the residual stream; 0 for that of the residual stream.
    skew: exponent of the power law of how often experts are chosen, by rank
      of popularity; 0 for balanced routing.
  """

  model_config = CONFIG

  count: Count
  top_k: Count
  d_ff: Count
  shared: CountOrNone = 0
  shared_d_ff: CountOrNone = 0
  dense_layers: CountOrNone = 0
  every: Count = 1
  latent_dim: CountOrNone = 0
  skew: float = pydantic.Field(default=0.0, ge=0.0)

  @pydantic.model_validator(mode='after')
  def _top_k_exists(self):
    if self.top_k > self.count:
      raise ValueError(f'top_k = {self.top_k} exceeds count = {self.count}')
    return self

  def popularity(self) -> Float[np.ndarray, ' expert']:
    """Share of the tokens that visit each expert, most popular first.

    Shares sum to `top_k`. A token visits an expert once at most: what the
    power law has beyond one is given to the experts behind.
    """
    law = np.arange(1, self.count + 1) ** -self.skew
    share = np.ones(self.count)
    for full in range(self.top_k):
      tail = law[full:] / law[full:].sum()
      share[full:] = (self.top_k - full) * tail
      if share[full] <= 1.0:
        break
      share[full] = 1.0
    return share

  def touched_share(self, tokens: ArrayLike) -> Array:
    """Share of the experts that at least one of so many tokens visits.

    Args:
      tokens: tokens that are routed on their own [...].
    """
    if not self.skew:
      return 1.0 - (1.0 - self.top_k / self.count) ** jnp.asarray(tokens)
    missed = jnp.asarray(1.0 - self.popularity())
    return 1.0 - (missed ** jnp.asarray(tokens)[..., None]).mean(-1)

  def imbalance(self, ranks: ArrayLike) -> Array:
    """Load of the busiest rank over the mean, experts placed at best.

    An expert is on one rank, so no placement is better than the load of the
    most popular one.

    Args:
      ranks: ranks that share the experts [...].
    """
    return jnp.maximum(1.0, self.popularity()[0] / self.top_k * ranks)
