"""Galaxies for lensing as TensorFlow Datasets: importing this registers `galaxy_zoo`, `great3`, `galaxy_folder`.

    import tensorflow_datasets as tfds
    import rim_tf.data.builders

    given = tfds.download.DownloadConfig(manual_dir="/data/galaxy_zoo")
    tfds.load("galaxy_zoo", split="train", download_and_prepare_kwargs={"download_config": given})

or, in a shell,

    tfds build galaxy_zoo/gz2 --imports rim_tf.data.builders --manual_dir /data/galaxy_zoo --data_dir /data/tfds

(without `/gz2`, tfds builds every config). What belongs into the manual folder each builder says in its
MANUAL_DOWNLOAD_INSTRUCTIONS. Other settings than those of the named configs go in as a config of another name,
`tfds build galaxy_zoo --config '{"name": "mine", "strict": true}'`, in Python `config=GalaxyZooConfig(...)`.
"""

from rim_tf.data.builders.base import GalaxyConfig, check_split, read_galaxies
from rim_tf.data.builders.galaxy_folder import GalaxyFolder, GalaxyFolderConfig
from rim_tf.data.builders.galaxy_zoo import GalaxyZoo, GalaxyZooConfig
from rim_tf.data.builders.great3 import Great3, Great3Config

__all__ = [
    "GalaxyConfig",
    "GalaxyFolder",
    "GalaxyFolderConfig",
    "GalaxyZoo",
    "GalaxyZooConfig",
    "Great3",
    "Great3Config",
    "check_split",
    "read_galaxies",
]
