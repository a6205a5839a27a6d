"""A small set of lenses, built by tests and, as a script, by the processes that they kill.

python tests/small_sets.py FOLDER [RUNNER [OPTION ...]]
"""

import functools
import sys
import time

if __name__ == "__main__":  # in half the time
    from rim_tf import heavy

    heavy.import_quietly()

from rim_tf.config import MockConfig
from rim_tf.data.sets import building
from rim_tf.data.sources.galaxies import GalaxySet
from rim_tf.data.sources.procedural import procedural_galaxies

CONFIG = MockConfig(image_pixels=24, source_pixels=24, minimum_magnification=1.0, edge_flux=0.2)
# Four shards to train on, the last one not full, and one to validate on.
SIZES = {"n": 27, "n_validation": 5, "seed": 3, "batch_size": 4, "batches_per_shard": 2}


@functools.cache
def few_galaxies():
    """Three galaxies to train on and three others to validate on."""
    found = procedural_galaxies(6, "test", 5)
    return {
        split: GalaxySet(found.images[part], found.ids[part], found.half_light_radius[part])
        for split, part in (("train", slice(3)), ("validation", slice(3, 6)))
    }


def build(out, **options):
    """What is said while the set is made or finished in `out`."""
    said = []
    building.build(**({"config": CONFIG, "galaxies": few_galaxies(), "say": said.append} | SIZES | options), out=out)
    return said


if __name__ == "__main__":
    write = building._Simulation.write

    def write_and_rest(simulation, path):
        write(simulation, path)
        time.sleep(1)  # in which the process can be killed, with a shard written and others not

    building._Simulation.write = write_and_rest
    build(sys.argv[1], runner=sys.argv[2] if len(sys.argv) > 2 else None, pipeline_options=sys.argv[3:])
