"""What is said of one observable of one measured run."""

import math
from typing import NamedTuple

ANSWERED = 'answered'


class Answer(NamedTuple):
  """One observable of one row.

  Attributes:
    index: 0-based row of the input.
    observable: such as 'step_time_s'.
    observed: as the row gives it; NaN if it does not.
    predicted: NaN without an answer.
    log_sd: standard deviation of the prediction's logarithm.
    status: 'answered', or why not.
  """

  index: int
  observable: str
  observed: float
  predicted: float
  log_sd: float
  status: str

  @property
  def is_answered(self) -> bool:
    """Whether there is a prediction."""
    return self.status == ANSWERED


def refusal(index: int, observable: str, observed: float, why: str) -> Answer:
  """A row without an answer, and why."""
  return Answer(index, observable, observed, math.nan, math.nan, why)
