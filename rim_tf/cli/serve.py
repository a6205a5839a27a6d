"""`rim-tf serve`: a model behind TensorFlow Serving's protocol."""

import contextlib
import os
import shutil
import signal
import threading

import click

from rim_tf.cli import options
from rim_tf.config import ServingSettings
from rim_tf.errors import InputError
from rim_tf.heavy import import_quietly

STOCK = "tensorflow_model_server"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@click.command(short_help="Serve an exported model by TensorFlow Serving's protocol.")
@click.argument("model", type=click.Path())
@click.option("--host", default="127.0.0.1", show_default=True, help="To listen on; others are reachable from outside.")
@click.option("--port", default=8500, show_default=True, type=click.IntRange(0, 65535), help="Of gRPC; 0 for any.")
@click.option("--rest-port", default=8501, show_default=True, type=click.IntRange(0, 65535), help="Of REST; likewise.")
@click.option("--server", type=click.Choice(["auto", "stock", "own"]), default="auto", show_default=True, help="Which.")
@options.options_of(ServingSettings)
def serve(model, host, port, rest_port, server, **arguments):
    """Serve MODEL, a folder whose subfolders 1, 2, ... are versions that `rim-tf export` wrote.

    The newest version is served; one that is added or removed is noticed within seconds, and no request is lost. Where
    TensorFlow Serving (tensorflow_model_server) is on the PATH and --host is 0.0.0.0, it is started, as it listens on
    all addresses; otherwise a server of rim_tf's own, which speaks the same protocol. It ends at Ctrl-C or SIGTERM,
    when what it was asked before is answered.
    """
    settings = options.settings_from(ServingSettings, arguments)
    stock = shutil.which(STOCK)
    if server == "stock" and stock is None:
        raise InputError(f"{STOCK} is not on the PATH; install TensorFlow Serving, or leave --server away.")
    if server == "stock" and host != "0.0.0.0":
        raise InputError(f"{STOCK} listens on all addresses; say so with --host 0.0.0.0, or leave --server away.")
    if server != "own" and stock is not None and host == "0.0.0.0":
        _become_stock(stock, model, port, rest_port, settings)
    _serve(model, host, port, rest_port, settings)


def _become_stock(stock, model, port, rest_port, settings):
    folder = os.path.abspath(model)
    if not os.path.isdir(folder):
        raise InputError(f"{model} is no folder; write a model with rim-tf export.")
    click.echo(f"Starting {stock}, on all addresses, gRPC {port}, REST {rest_port}.")
    arguments = [
        f"--port={port}",
        f"--rest_api_port={rest_port}",
        f"--model_name={os.path.basename(folder)}",
        f"--model_base_path={folder}",
        f"--tensorflow_session_parallelism={settings.workers}",
        f"--grpc_channel_arguments=grpc.max_receive_message_length={settings.largest_request * 2**20}",
    ]
    os.execv(stock, [stock, *arguments])


def _serve(model, host, port, rest_port, settings):
    import_quietly()
    import tensorflow as tf

    from rim_tf.serving.server import Server

    # A batch on one core each is faster than batches that share all of them.
    with contextlib.suppress(RuntimeError):  # where TensorFlow has begun before, which is never so from a shell
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(settings.workers)
    server = Server(model, host, port, rest_port, settings, lambda line: click.echo(line, err=True))
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # from here on there is something to bring to an end
        signal.signal(number, lambda *_: ended.set())
    name = server.service.model.name
    click.echo(
        f"TensorFlow Serving's protocol, hosted by rim_tf: gRPC {host}:{server.port}, REST "
        f"http://{host}:{server.rest_port}/v1/models/{name}"
    )
    if host not in _LOOPBACK:
        click.echo("Warning: there is no password; whoever reaches this address can use the server.", err=True)
    while not ended.wait(1.0):
        pass
    click.echo("Closing; answering what is left ...", err=True)
    server.close()
