"""The entry: the group of all commands, and what is said of what goes wrong."""

import contextlib
import errno
import os
import sys
import warnings

import click

from rim_tf import __version__
from rim_tf.cli import interrupt
from rim_tf.cli.dataset import dataset
from rim_tf.cli.demo import demo
from rim_tf.cli.evaluate import evaluate
from rim_tf.cli.export import export
from rim_tf.cli.model import model
from rim_tf.cli.posterior import posterior
from rim_tf.cli.reconstruct import command_of
from rim_tf.cli.remote import remote
from rim_tf.cli.serve import serve
from rim_tf.cli.simulate import simulate
from rim_tf.errors import InputError, InputWarning
from rim_tf.heavy import collection_later
from rim_tf.inference import methods


class _Refusal(click.ClickException):
    exit_code = 2


class _Commands(click.Group):
    """The commands that are written out and those of the registered methods; what the user can mend is one sentence."""

    def list_commands(self, ctx):
        return [*(method.command for method in methods.METHODS.values()), *self.commands]

    def get_command(self, ctx, name):
        for method in methods.METHODS.values():
            if method.command == name:
                return command_of(method)
        return super().get_command(ctx, name)

    def invoke(self, ctx):
        with interrupt.watched(), collection_later(), _spoken_warnings():
            try:
                return super().invoke(ctx)
            except Exception as error:
                interrupt.check()  # an import that is interrupted may end in an error of another kind
                sentence = _sentence(error)
                if sentence is None:
                    raise
                raise _Refusal(sentence) from None


def _sentence(error):
    """What the user can do about an error, or None where it is not the user's to mend."""
    if isinstance(error, InputError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return "The memory is not enough; cut out the region around the lens, or ask for fewer pixels."
    if isinstance(error, ImportError) and error.name and error.name.split(".")[0] not in ("rim_tf", "training"):
        return f"{error.name.split('.')[0]} cannot be imported ({error}); install rim_tf again, as with pip install ."
    if isinstance(error, OSError) and error.errno != errno.EPIPE:  # the reader of our output left: click's business
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}."
    return None


@contextlib.contextmanager
def _spoken_warnings():
    """InputWarnings become lines on stderr, each said once."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        usual, said = warnings.showwarning, set()

        def show(message, category, *where, **more):
            if not issubclass(category, InputWarning):
                usual(message, category, *where, **more)
            elif str(message) not in said:
                said.add(str(message))
                click.echo(f"Warning: {message}", err=True)

        warnings.showwarning = show
        yield


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="rim-tf")
def main():
    """Unlensed sources of strong gravitational lenses, by Recurrent Inference Machines."""
    with contextlib.suppress(AttributeError):  # not the stream of a terminal or a file
        sys.stdout.reconfigure(errors="backslashreplace")  # a path need not be text
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # What other projects set for themselves may name a backend that is not installed here.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["MPLBACKEND"] = "agg"


for _command in (model, posterior, simulate, demo, dataset, evaluate, export, serve, remote):
    main.add_command(_command)
