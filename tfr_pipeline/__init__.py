"""Training pipelines for ranking models, from log files to a served model.

`import tfr_pipeline as tfr` replaces `import tensorflow_ranking as tfr`: the names
of `tfr.keras.model`, `tfr.keras.pipeline` and `tfr.keras.saved_model` are ours, the
rest is handed through. The import is cheap; TensorFlow is loaded when a name that
needs it is first used.
"""

from __future__ import annotations

from tfr_pipeline import compat as _compat  # noqa: F401  first: it selects Keras 2

__version__ = "0.1.0"
