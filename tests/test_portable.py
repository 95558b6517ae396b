"""The library and the command line without HOME, on Windows and on macOS, as far as these can be simulated here."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from adasde import common
from adasde.experiments.artifacts import device_name
from conftest import slow

ROOT = Path(__file__).parents[1]
SCALE = ["scale", "adam", "--lr", "1e-3", "--beta2", "0.99", "--batch-size", "256", "--to", "1024"]
PLAN = ["plan", str(ROOT / "workflow/config/smoke.yaml")]
COMMAND = "; import sys; from adasde.__main__ import main; sys.exit(main(sys.argv[1:]))"
PLACES = {
    # What Windows lacks. It is blocked, not looked for: this system has it.
    "Windows": (
        "import os, signal, sys\n"
        "for name in ('fcntl', 'grp', 'pwd', 'resource', 'termios'): sys.modules[name] = None\n"
        "for name in ('fork', 'forkpty', 'getpgid', 'getuid', 'killpg', 'sched_getaffinity', 'setsid', 'symlink'):\n"
        "    delattr(os, name)\n"
        "for name in ('SIGALRM', 'SIGHUP', 'SIGKILL', 'SIGUSR1', 'pthread_sigmask'): delattr(signal, name)\n"
        # Text is in another encoding than UTF-8 there, unless a file is opened with one.
        "import warnings; warnings.filterwarnings('error', category=EncodingWarning, module='adasde.(common|scaling)')"
    ),
    "macOS": "import os, sys; del os.sched_getaffinity",
    "no home": "import os, sys; del os.environ['HOME']; sys.modules['pwd'] = None",
}
TRAIN = """
import torch, adasde
torch.manual_seed(0)
model, x = torch.nn.Linear(20, 2), torch.randn(1600, 20)
y = torch.randint(2, (1600,))
loss = lambda model, x, y: torch.nn.functional.cross_entropy(model(x), y)
chunks = list(zip(x[:400].split(20), y[:400].split(20)))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.98, 0.99))
monitor = adasde.NoiseMonitor(model, optimizer, 16, loss, chunks, every=5)
for step in range(1, 21):
    batch = torch.randint(len(x), (16,))
    optimizer.zero_grad(), loss(model, x[batch], y[batch]).backward(), optimizer.step()
    monitor(step)
adasde.rescale(optimizer, kappa=4)
print(optimizer.param_groups[0]["lr"], monitor.largest_kappa() > 1)
assert all(getattr(adasde, name) for name in adasde.__all__)
import adasde.experiments.simulations, adasde.training.loop
"""


def python(code, *arguments, prefix=(), **options):
    command = [*prefix, sys.executable, "-X", "warn_default_encoding", "-W", "ignore", "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.mark.parametrize(
    "place", [place if name == "Windows" else slow(place) for name, place in PLACES.items()], ids=PLACES
)
def test_c3_c4_c22_the_library_works(place):
    done = python(f"{place}\n{TRAIN}")
    assert done.stdout == "0.002 True\n", done.stderr


@pytest.mark.parametrize("command", [SCALE, PLAN], ids=["scale", "plan"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_c3_c4_c22_commands_that_need_no_data_work(place, command, adasde):
    done = python(place + COMMAND, *command)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == adasde(*command).stdout


def test_c4_a_recipe_in_utf_8_is_read_on_windows(tmp_path):
    recipe = {"optimizer": "adam", "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "batch_size": 256}
    text = "# größer\n" + "".join(f"{key}: {value}\n" for key, value in recipe.items())
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    options = ("--to", 1024, "--write", tmp_path / "new.yaml")
    done = python(PLACES["Windows"] + COMMAND, "scale", "recipe", tmp_path / "recipe.yaml", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert "# größer\n" in (tmp_path / "new.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["data fashion-mnist", "run --spec 1 --out run.parquet"], ids=["data", "run"])
def test_c3_a_command_that_needs_data_asks_for_their_folder(command, tmp_path):
    done = python(PLACES["no home"] + COMMAND, *command.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "adasde: error: argument --data: ~/.cache/adasde: there is no home folder; give --data or ADASDE_DATA "
        f"(see `adasde {command.split()[0]} --help`)\n"
    )
    done = python(PLACES["no home"] + COMMAND, "data", "nothing", "--data", tmp_path, cwd=tmp_path)
    assert "error: data = 'nothing'" in done.stderr
    done = python(
        PLACES["no home"] + COMMAND, "data", "nothing", cwd=tmp_path, env=os.environ | {"ADASDE_DATA": "here"}
    )
    assert "error: data = 'nothing'" in done.stderr


def test_c3_a_user_without_home_and_entry():
    user = ["unshare", "-U", "--map-user=12345", "env", "-u", "HOME"]
    if not shutil.which("unshare") or subprocess.run([*user, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare, and the right to make user namespaces")
    for command in (SCALE, PLAN):
        done = python("0" + COMMAND, *command, prefix=user)
        assert (done.returncode, done.stderr) == (0, "")
    assert python(TRAIN, prefix=user).stdout == "0.002 True\n"


def test_a_tilde_stands_for_the_home_folder_in_every_variable(adasde, tmp_path):
    """Shells do not expand it there, if it is set in a file or in quotes."""
    home = {"HOME": str(tmp_path), "ADASDE_IMAGENET": "~/images"}
    done = adasde("data", "imagenet", env={**home, "ADASDE_DATA": "~/data"})
    assert done.returncode == 2
    assert f"ADASDE_IMAGENET = {tmp_path}/images: holds no folder train" in done.stderr
    assert (tmp_path / "data").is_dir()


def test_where_data_are_kept_by_default(adasde, tmp_path):
    (tmp_path / "results/data").mkdir(parents=True)
    for folder, env in (
        (tmp_path, {}),
        (tmp_path / "results", {}),
        (tmp_path, {"ADASDE_DATA": "50%"}),
        (tmp_path, {"ADASDE_DATA": "~/data"}),
    ):
        shown = " ".join(
            python(
                COMMAND[2:], "data", "--help", cwd=folder, env=os.environ | {"ADASDE_DATA": "", **env}
            ).stdout.split()
        )
        wanted = env.get("ADASDE_DATA") or ("results/data" if folder == tmp_path else "~/.cache/adasde")
        assert f"where data sets are kept (default {wanted})" in shown


@pytest.mark.parametrize(("platform", "wanted"), [("linux", 2_048_000), ("darwin", 2000)])
def test_c22_peak_memory_is_in_bytes(monkeypatch, platform, wanted):
    usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=2000))
    monkeypatch.setattr(common, "resource", usage)
    monkeypatch.setattr(common.sys, "platform", platform)
    assert common.peak_memory() == wanted


def test_peak_memory_is_the_kernels(monkeypatch):
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    assert common.peak_memory() == pytest.approx(1024 * int(line.split()[1]), rel=0.05)
    monkeypatch.setattr(common, "resource", None)
    assert common.peak_memory() is None  # Windows


def test_c22_cores(monkeypatch):
    assert common.cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert common.cores() == os.cpu_count()


def test_a_processor_without_proc_has_a_name(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda *_: (_ for _ in ()).throw(FileNotFoundError))
    assert device_name() == os.uname().machine


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [
        (">&-", 0, ""),
        ("| true", 0, ""),
        (">&- 2>&-", 0, ""),
        (">/dev/full", 2, "adasde: error: output: No space left on device\n"),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [SCALE, PLAN, ["--help"], ["--version"]], ids=lambda command: command[0])
def test_a_closed_output_is_quiet_and_a_full_one_an_error(command, unbuffered, end, status, error):
    line = f'"$0" -m adasde "$@" {end}; echo ${{PIPESTATUS[0]}}; exit'
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(["bash", "-c", line, sys.executable, *command], env=env, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{status}\n", error)


@pytest.mark.parametrize("end", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize("command", [[*SCALE, "--lr", "-1"], ["nothing"]], ids=["scale", "nothing"])
def test_an_error_without_a_place_to_say_it_is_a_status_only(command, end):
    done = subprocess.run(
        ["bash", "-c", f'"$0" -m adasde "$@" {end}; exit $?', sys.executable, *command], capture_output=True, text=True
    )
    assert (done.returncode > 0, done.stdout, done.stderr) == (True, "", "")


def posix(folder, *arguments, **env):
    """Run a command in the POSIX locale, as Python has it without its own way out of it."""
    plain = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", **env}
    command = [sys.executable, "-m", "adasde", *arguments]
    return subprocess.run(command, cwd=folder, env=os.environ | plain, capture_output=True, text=True)


def test_a_locale_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "ü.yaml").write_text("optimizer: adamw\nbatch_size: 4\n", encoding="utf-8")
    done = posix(tmp_path, "scale", "recipe", "ü.yaml", "--to", "8")
    assert done.stderr.endswith(".yaml': is not ascii, the locale's; set PYTHONUTF8=1\n")
    arguments = ("scale", "recipe", "ü.yaml", "--to", "8", "--write", "ü2.yaml")
    done = posix(tmp_path, *arguments, PYTHONUTF8="1", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("written to \\xfc2.yaml\n")


@pytest.mark.parametrize("command", ["", "plan", "scale", "run"])
def test_help_needs_no_docstrings(command):
    done = subprocess.run(
        [sys.executable, "-OO", "-m", "adasde", *command.split(), "--help"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: adasde")


@pytest.mark.parametrize("command", ["plan", "report"])
def test_a_working_directory_that_is_gone_is_named(command, tmp_path):
    line = 'cd "$0" && rmdir "$0" && exec "$@" x.yaml'
    arguments = [tmp_path, sys.executable, "-m", "adasde", command]
    done = subprocess.run(["bash", "-c", line, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "adasde: error: working directory: No such file or directory\n"
