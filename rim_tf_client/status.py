"""What a model says of each of the systems that it was asked about: its output `status`, and the sentence behind it.

A model server may have put systems of several callers into one batch. An assertion in the graph would fail all of them,
so a model answers all, and marks those that it could not use: their other outputs are NaN.
"""

import numpy as np

# Number -> the input at fault, and what it must be. A number that has been given away keeps its meaning for ever, as
# clients and exported models may be of different ages. 0 is a system that is as it should be.
MUST_BE = {
    1: ("image", "finite where mask is true"),
    2: ("noise_rms", "finite and above 0 where mask is true"),
    3: ("mask", "true somewhere"),
    4: ("psf", "finite: a stamp whose sum is 1, or a sigma of at least 0 [arcsec]"),
    5: ("lens", "finite and within the bounds of its parameters"),
    6: ("pixel_scale", "finite and above 0 [arcsec]"),
    7: ("source_pixel_scale", "finite and above 0 [arcsec]"),
    8: ("source", "finite"),
    9: ("strength", "finite and above 0"),
    10: ("regularisation", "0 (brightness), 1 (gradient) or 2 (curvature)"),
    11: ("prior_mean", "finite"),
}
# All inputs are as they should be, and yet there is no finite number for the result.
NO_RESULT = 100


def complaint(outputs):
    """A sentence on the first system that a model could not use; None where it could use all.

    Args:
      outputs: {name: array} of a signature; one without `status` says nothing.
    """
    status = np.ravel(outputs.get("status", 0)).astype(int)
    if not status.any():
        return None
    system = int(np.flatnonzero(status)[0])
    where = f"system {system} of the {len(status)} in this request"
    if status[system] == NO_RESULT:
        return f"There is no finite result for {where}; some number there is too large or too small."
    if status[system] not in MUST_BE:
        return f"The model could not use {where}; its card says what status {status[system]} is."
    name, must_be = MUST_BE[status[system]]
    return f"{name} must be {must_be}; that of {where} is not."
