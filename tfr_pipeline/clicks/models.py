"""Click models: who clicks what, with probabilities in closed form.

Notation of Chuklin, Markov and de Rijke, "Click Models for Web Search" (2015): a
document is clicked if it is examined and found attractive. The models differ in what is
examined.
"""

from __future__ import annotations

import abc
import dataclasses

import numpy as np

from tfr_pipeline.errors import ConfigError, unknown_name

NAMES = ("pbm", "cascade", "dcm")


def attraction(
    grades: np.ndarray, noise: float = 0.1, largest: float = 4.0
) -> np.ndarray:
    """Returns how likely an examined document is clicked, by its grade.

    `noise + (1 - noise) (2^grade - 1) / (2^largest - 1)`: the mapping of Ai et al.,
    "Unbiased Learning to Rank with Unbiased Propensity Estimation", SIGIR 2018.

    Args:
      grades: `[...]`, from 0 to `largest`.
      noise: Probability for a document of grade 0.
      largest: Grade of a document that is always clicked when it is examined.

    Returns:
      float64 `[...]`.

    Raises:
      ConfigError: `noise` or `largest` cannot be, or a grade is out of range.

    Example:
      >>> attraction(np.array([0, 1, 4])).round(2).tolist()
      [0.1, 0.16, 1.0]
    """
    if not 0 <= noise < 1:
        raise ConfigError(f"noise: expected at least 0 and less than 1, found {noise}.")
    if not 0 < largest <= 30:
        raise ConfigError(
            f"largest grade: expected more than 0 and at most 30, found {largest}."
        )
    wrong = ~((grades >= 0) & (grades <= largest))
    if wrong.any():
        raise ConfigError(
            f"grades: expected 0 to {largest:g}, found {grades[wrong].flat[0]:g}. Say "
            "which is the largest, or transform the labels."
        )
    gains = np.exp2(grades.astype(np.float64)) - 1
    return noise + (1 - noise) * gains / (2.0**largest - 1)


def examination(positions: int, eta: float) -> np.ndarray:
    """Returns `(1 / position)^eta`, float64 `[positions]`.

    Example:
      >>> examination(4, 1.0).round(2).tolist()
      [1.0, 0.5, 0.33, 0.25]
    """
    if not 0 <= eta <= 10:
        raise ConfigError(f"eta: expected a number from 0 to 10, found {eta}.")
    return np.arange(1, positions + 1, dtype=np.float64) ** -eta


class ClickModel(abc.ABC):
    """Interface: clicks on one ranked list."""

    @abc.abstractmethod
    def probabilities(self, attraction: np.ndarray) -> np.ndarray:
        """Returns how likely each document is clicked, float64 `[..., documents]`.

        Args:
          attraction: `[..., documents]` in the order in which they are shown.
        """

    @abc.abstractmethod
    def sample(self, attraction: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Returns clicks, bool `[..., documents]`, of one session a list.

        Args:
          attraction: As of `probabilities`.
          random: Draws them.
        """


@dataclasses.dataclass(frozen=True)
class PositionBased(ClickModel):
    """Examination depends on the position alone: `P(click) = theta_k attraction`.

    Attributes:
      eta: `theta_k` is `(1 / k)^eta`; see `examination`.

    Example:
      >>> PositionBased(eta=1.0).probabilities(np.array([0.5, 0.5])).tolist()
      [0.5, 0.25]
    """

    eta: float = 1.0

    def probabilities(self, attraction: np.ndarray) -> np.ndarray:
        """See `ClickModel`; Chuklin et al., equation 3.11."""
        return attraction * examination(attraction.shape[-1], self.eta)

    def sample(self, attraction: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """See `ClickModel`."""
        return random.random(attraction.shape) < self.probabilities(attraction)


@dataclasses.dataclass(frozen=True)
class DependentClick(ClickModel):
    """Users go down a list, and after a click go on with a chance that falls.

    Without a click they always go on. `P(examined_(k+1)) = P(examined_k) (1 -
    attraction_k (1 - lambda_k))` with `lambda_k = stay (1 / k)^eta` (Guo et al.,
    "Efficient Multiple-Click Models in Web Search", WSDM 2009). With `stay=0` it is the
    cascade model: the first click is the last.

    Attributes:
      stay: How likely users go on after a click on the first document.
      eta: How fast that falls with the position.

    Example:
      >>> DependentClick(stay=0.0).probabilities(np.array([0.5, 0.5])).tolist()
      [0.5, 0.25]
    """

    stay: float = 0.8
    eta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.stay <= 1:
            raise ConfigError(f"stay: expected 0 to 1, found {self.stay}.")

    def _lambdas(self, documents: int) -> np.ndarray:
        return self.stay * examination(documents, self.eta)

    def probabilities(self, attraction: np.ndarray) -> np.ndarray:
        """See `ClickModel`."""
        goes_on = 1 - attraction * (1 - self._lambdas(attraction.shape[-1]))
        examined = np.cumprod(goes_on, axis=-1)
        first = np.ones_like(examined[..., :1])
        return attraction * np.concatenate([first, examined[..., :-1]], axis=-1)

    def sample(self, attraction: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """See `ClickModel`."""
        lambdas = self._lambdas(attraction.shape[-1])
        attracts = random.random(attraction.shape) < attraction
        leaves = attracts & (random.random(attraction.shape) >= lambdas)
        left_before: np.ndarray = np.cumsum(leaves, axis=-1) - leaves
        return attracts & (left_before == 0)


def click_model(name: str, eta: float = 1.0, stay: float = 0.8) -> ClickModel:
    """Returns the click model of a name.

    Args:
      name: `pbm`, `cascade` or `dcm`.
      eta: Of `pbm` and `dcm`.
      stay: Of `dcm`.

    Raises:
      ConfigError: There is no such model, or a number cannot be.

    Example:
      >>> click_model("cascade")
      DependentClick(stay=0.0, eta=1.0)
    """
    if name not in NAMES:
        raise ConfigError(unknown_name("click model", name, NAMES))
    examination(1, eta)
    if name == "pbm":
        return PositionBased(eta)
    return DependentClick(0.0 if name == "cascade" else stay, eta)
