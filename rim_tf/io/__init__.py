"""Files in and out: FITS through astropy, lens parameters as JSON. Neither Keras nor TensorFlow is imported here."""

from rim_tf.io.fits_in import (
    hdus_of,
    is_cut_short,
    number_or_path,
    open_fits,
    pixel_scale_of,
    pixels_of,
    read_image,
    read_observation,
    read_source,
    split_hdu,
)
from rim_tf.io.fits_out import versions, write_reconstruction, write_simulation, write_sources
from rim_tf.io.lens_json import read_lens, read_prior, write_lens

__all__ = [
    "hdus_of",
    "is_cut_short",
    "number_or_path",
    "open_fits",
    "pixel_scale_of",
    "pixels_of",
    "read_image",
    "read_lens",
    "read_observation",
    "read_prior",
    "read_source",
    "split_hdu",
    "versions",
    "write_lens",
    "write_reconstruction",
    "write_simulation",
    "write_sources",
]
