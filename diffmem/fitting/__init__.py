"""From traces to a system: residuals, optimisers, errors, held-out checks."""

from diffmem.fitting.accuracy import accuracy as accuracy
from diffmem.fitting.evaluate import Predictions as Predictions
from diffmem.fitting.evaluate import evaluate as evaluate
from diffmem.fitting.evaluate import group_errors as group_errors
from diffmem.fitting.evaluate import predict_traces as predict_traces
from diffmem.fitting.evaluate import summary as summary
from diffmem.fitting.fit import FitOptions as FitOptions
from diffmem.fitting.fit import FitResult as FitResult
from diffmem.fitting.fit import fit as fit
from diffmem.fitting.fit import fit_held_out as fit_held_out
from diffmem.fitting.residual import ResidualOptions as ResidualOptions
from diffmem.fitting.split import hold_out as hold_out
from diffmem.fitting.transfer import Transfer as Transfer
from diffmem.fitting.transfer import part_swap as part_swap
from diffmem.fitting.transfer import transfer as transfer
from diffmem.fitting.transfer import with_figures as with_figures
