"""`python -m rim_tf` is `rim-tf`."""

from rim_tf.cli.main import main

main(prog_name="rim-tf")
