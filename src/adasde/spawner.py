"""A process that has imported torch, of which the jobs of a graph on one machine are forks.

To import torch takes a run two seconds, and transformers four more: together a third of the scale mini. So a graph that
runs on this machine calls `start`, and `adasde run` asks, by the socket in ADASDE_SPAWNER, for a fork of that process:
it has the asker's arguments, folder, environment and output, gets its signals, and its status becomes the asker's. A
fork whose asker is killed ends as well. Where there is no such process, or it has gone, a job does without.
"""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from .errors import InputError

SOCKET = "ADASDE_SPAWNER"  # in the environment: the socket's file, relative to the folder of the graph
# What each command imports late; a run also the module of its task and that one's LIBRARIES.
COMMANDS = {
    "run": (".train", ".store"),
    "collect": (".tables",),
    "figure": (".tables", ".plots.style"),
    "claims": (".claims",),
}
LENGTH = struct.Struct("!q")
_started = []  # the process is told by the end of its input that the graph has ended, so that must stay open


def start():
    """Start the process, and name its socket in the environment; it ends with this process."""
    if sys.platform != "linux":  # elsewhere a process with torch in it does not fork well
        return
    path = f".snakemake/adasde.{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(path)  # writable for its owner alone, so nobody else can connect
        except OSError:  # a file system without sockets
            return
        listener.listen(64)
        number = listener.fileno()
        command = [sys.executable, "-m", __spec__.name, path, str(number)]
        # Of another session, so that Ctrl-C comes to forks from their askers alone; a thread as all runs have.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        options = {"stdin": subprocess.PIPE, "pass_fds": [number], "start_new_session": True, "env": environment}
        _started.append(subprocess.Popen(command, **options))
    os.environ[SOCKET] = path


def asked(arguments) -> int | None:
    """Have ``arguments`` of the command line done by a fork; return its status, or None if there is nobody to ask."""
    path = os.environ.get(SOCKET)
    if not path or not COMMANDS.keys() & arguments[:1]:
        return None
    forwarded = (signal.SIGTERM, signal.SIGINT)
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
            signal.pthread_sigmask(signal.SIG_BLOCK, forwarded)  # until it is known whom to pass them on to
            _send(connection, json.dumps([arguments, str(Path.cwd()), dict(os.environ)]).encode())
            child = LENGTH.unpack(_received(connection, LENGTH.size))[0]
            for number in forwarded:
                signal.signal(number, lambda number, _: _kill(child, number))
        except OSError:  # nothing has been begun
            return None
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, forwarded)
        status = connection.recv(1)
    if not status:
        print("adasde: error: the run was killed; it may have been out of memory", file=sys.stderr)
        return 128 + signal.SIGKILL
    return status[0]


def _serve(path, number):
    """Fork for everyone who asks at the listening socket ``number``, until there is no more input."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks tell their status themselves
    _import_for(["run"])
    import_module("pyarrow.parquet")
    threading.Thread(target=_end_with_input, args=(path,), daemon=True).start()
    with socket.socket(fileno=number) as listener:
        while True:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                message, files = _request(connection)
                _import_for(message[0])
                child = os.fork()
                if child == 0:
                    listener.close()
                    _become(connection, *message, files)
                connection.sendall(LENGTH.pack(child))
                for file in files:
                    os.close(file)


def _end_with_input(path):
    while os.read(0, 1):
        pass
    with suppress(OSError):
        Path(path).unlink()
    os._exit(0)


def _become(connection, arguments, folder, environment, files):
    """Be, in a fork, the process that asked; its status is sent at the end."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for place, file in enumerate(files):
            os.dup2(file, place)
            os.close(file)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        threading.Thread(target=_end_with_asker, args=(connection,), daemon=True).start()
        from .cli import main

        status = main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    except SystemExit as leaving:
        status = leaving.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            connection.sendall(bytes([status]))
        os._exit(status)


def _end_with_asker(connection):
    if not connection.recv(1):
        os.kill(os.getpid(), signal.SIGKILL)


def _import_for(arguments):
    """Import what the job will need, once for all."""
    from .tasks import task_named

    for name in COMMANDS[arguments[0]]:
        import_module(name, __package__)
    with suppress(ValueError, KeyError, TypeError, InputError):  # what is wrong with a spec the fork will say
        spec = json.loads(arguments[arguments.index("--spec") + 1])
        module = import_module(task_named(spec["task"]).module if "task" in spec else f"{__package__}.simulate")
        for name in getattr(module, "LIBRARIES", ()):
            import_module(name)


def _send(connection, message):
    """Send a message with this process's input, output and error output."""
    socket.send_fds(connection, [LENGTH.pack(len(message))], [0, 1, 2])
    connection.sendall(message)


def _request(connection):
    connection.settimeout(10)
    length, files, _, _ = socket.recv_fds(connection, LENGTH.size, 3)
    message = json.loads(_received(connection, LENGTH.unpack(length)[0]))
    connection.settimeout(None)
    return message, files


def _received(connection, count):
    """Return ``count`` bytes; OSError if there are fewer."""
    parts = b""
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            raise ConnectionError("ended early")
        parts += part
    return parts


def _kill(process, number):
    with suppress(ProcessLookupError):
        os.kill(process, number)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
