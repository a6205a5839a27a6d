"""What a RIM is trained to make small, and the figure by which people judge it."""

import keras
from keras import ops


def rms_over_peak(source, estimate):
    """Root-mean-square error over all pixels in units of the true peak: [..., n, n] each -> [...]."""
    peak = ops.max(ops.abs(source), axis=(-2, -1))
    return ops.sqrt(ops.mean((estimate - source) ** 2, axis=(-2, -1)) + 1e-12) / peak


@keras.saving.register_keras_serializable("rim_tf")
class IterateLoss(keras.losses.Loss):
    """Error of every iterate, [batch, n, n] against [batch, n_steps, n, n] -> one number for each system.

    Args:
      kind: "squared": half the summed squared error, as in the paper's authors' earlier code; "rms": the
        RMS in units of the peak; "log_rms": its logarithm, for which a lens seen at a signal-to-noise ratio of
        1000 counts as much as one at 10 - with "rms", the noisy ones are nearly all of the loss.
    """

    KINDS = ("squared", "rms", "log_rms")

    def __init__(self, kind="rms", name="iterate_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        if kind not in self.KINDS:
            raise ValueError(f"Loss {kind!r} is unknown; it must be one of {', '.join(self.KINDS)}.")
        self.kind = kind

    def call(self, y_true, y_pred):
        if self.kind == "squared":
            return ops.mean(ops.sum((y_pred - y_true[:, None]) ** 2, axis=(-2, -1)), axis=1) / 2
        rms = rms_over_peak(y_true[:, None], y_pred)
        return ops.mean(ops.log(rms) if self.kind == "log_rms" else rms, axis=1)

    def get_config(self):
        return super().get_config() | {"kind": self.kind}


def final_rms_percent(y_true, y_pred):
    """Mean RMS of the last iterate in per cent of the peak; a metric for `compile`."""
    return 100 * ops.mean(rms_over_peak(y_true, y_pred[:, -1]))
